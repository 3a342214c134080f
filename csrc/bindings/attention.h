// What the bindings of attention over histories on both devices share.
#pragma once

#include "bindings/arrays.h"

namespace salience::bindings {

using CandidateLists = py::array_t<int64_t, 0>;
using LogWeights = std::optional<Contiguous<double>>;

// Checks and lays out the arguments for `call`, and returns what that wrote.
template <class Call>
py::array_t<float> attended(decltype(AttentionArguments::units) units, const Pattern& history,
                            const LogWeights& log_weights, const CandidateLists& candidates,
                            double temperature, double smoothing, Call&& call) {
  AttentionArguments arguments;
  arguments.units = units;
  arguments.history = pattern(history, units.rows);
  if (log_weights) {
    expect_size("log_weights", *log_weights, arguments.history.entries);
    arguments.log_weights = log_weights->data();
  }
  arguments.candidates = matrix("candidates", candidates);
  py::array_t<float> out({arguments.candidates.rows, arguments.candidates.columns});
  arguments.temperature = temperature;
  arguments.smoothing = smoothing;
  arguments.out = writable(out);
  call(arguments);
  return out;
}

}  // namespace salience::bindings
