// How an operation ends. The core never throws for what a caller did: it says so here, and the
// bindings turn it into the exception of the language above. (Running out of memory does throw.)
#pragma once

#include <string>
#include <utility>

namespace salience {

enum class Code {
  ok,
  invalid_argument,  // a value that the contract forbids
  interrupted,       // the caller asked to stop; outputs are unspecified
  diverged,          // the numbers left the finite range
};

struct [[nodiscard]] Status {
  Code code = Code::ok;
  std::string message;

  bool ok() const { return code == Code::ok; }

  static Status invalid(std::string message) { return {Code::invalid_argument, std::move(message)}; }
  static Status diverged(std::string message) { return {Code::diverged, std::move(message)}; }
  static Status interrupted() { return {Code::interrupted, "interrupted"}; }
};

}  // namespace salience

// Leaves the enclosing function with the status of `expression` unless that is ok.
#define SALIENCE_RETURN_IF_ERROR(expression)                                      \
  do {                                                                            \
    if (::salience::Status status_ = (expression); !status_.ok()) return status_; \
  } while (false)
