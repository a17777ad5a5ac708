#pragma once

// What each query sees, as ranges of keys. Causal attention, block diffusion over [x_t ; x_0] and packed documents
// differ in nothing else, so one CPU kernel serves them all and never meets a mask.

#include <cstdint>
#include <vector>

#include "documents.h"

namespace diffcoder {

/// Queries first..first+count of every row. Query i sees keys lo[r][i]..hi[r][i] for each of its ranges r; lo and hi
/// never decrease with i.
struct KeyRanges {
  int64_t first = 0, count = 0;
  bool per_row = false;  // lo and hi hold batch * count entries, else the same count entries serve every row
  std::vector<std::vector<int32_t>> lo, hi;
};

/// Query i sees its document's keys up to itself.
std::vector<KeyRanges> causal_ranges(const std::vector<Document>& documents, int64_t batch, int64_t length);

/// Every query sees every key.
std::vector<KeyRanges> full_ranges(int64_t queries, int64_t keys);

/// With s and e the document's bounds and [f, l) the query's block within the half of `length` positions (noisy half
/// first):
///   noisy query: clean keys [s, f) and noisy keys [f, l)         clean query: clean keys [s, l)
std::vector<KeyRanges> block_diffusion_ranges(const std::vector<Document>& documents, int64_t batch, int64_t length,
                                              int64_t block_size, bool clean_queries);

}  // namespace diffcoder
