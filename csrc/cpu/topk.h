// Top-k of a catalogue that is already there: what topk and Index share.
#pragma once

#include <functional>

#include "core/operations.h"
#include "cpu/catalogue.h"

namespace salience::cpu {

// As TopKArguments, with the items in `catalogue`. Filters refer to `ids` item ids.
struct SearchArguments {
  const Catalogue& catalogue;
  Matrix<const float> queries;
  int64_t k = 0;
  Csr exclude;
  const uint8_t* allowed = nullptr;
  Matrix<int64_t> ids;
  Matrix<float> scores;
  Path path = Path::automatic;
  Blend blend;

  // Where the items have a copy in 8 bits, or can have one: gives its blocks, or none while another search
  // is making it.
  std::function<Status(std::vector<const ByteBlock*>& blocks)> bytes;
};

Status search(const SearchArguments& arguments, const Context& context);

// What the scan computes for every pair of `arguments`, and how far off it may be: see
// GroupScan::probe. For tests.
Status probe(const SimilarityArguments& arguments, Path path, double* values, double* errors, double* offsets,
             double* norms);

}  // namespace salience::cpu
