#include "key_ranges.h"

#include <algorithm>

namespace diffcoder {
namespace {

KeyRanges make(int64_t first, int64_t count, bool per_row, int64_t batch, size_t ranges) {
  const std::vector<int32_t> blank(static_cast<size_t>(per_row ? batch * count : count));
  return {first, count, per_row, std::vector<std::vector<int32_t>>(ranges, blank),
          std::vector<std::vector<int32_t>>(ranges, blank)};
}

bool has_rows(const std::vector<Document>& documents) { return documents.front().row >= 0; }

/// Where position i of the document lies in the arrays.
size_t index_of(const Document& d, int64_t length, int64_t i) {
  return static_cast<size_t>(std::max<int64_t>(d.row, 0) * length + d.start + i);
}

}  // namespace

std::vector<KeyRanges> causal_ranges(const std::vector<Document>& documents, int64_t batch, int64_t length) {
  if (documents.empty()) return {};
  KeyRanges queries = make(0, length, has_rows(documents), batch, 1);
  for (const Document& d : documents) {
    for (int64_t i = 0; i < d.length; ++i) {
      const size_t at = index_of(d, length, i);
      queries.lo[0][at] = static_cast<int32_t>(d.start);
      queries.hi[0][at] = static_cast<int32_t>(d.start + i + 1);
    }
  }
  return {std::move(queries)};
}

std::vector<KeyRanges> full_ranges(int64_t queries, int64_t keys) {
  const auto all = [&](int64_t bound) {
    return std::vector<std::vector<int32_t>>{
        std::vector<int32_t>(static_cast<size_t>(queries), static_cast<int32_t>(bound))};
  };
  return {{0, queries, false, all(0), all(keys)}};
}

std::vector<KeyRanges> block_diffusion_ranges(const std::vector<Document>& documents, int64_t batch, int64_t length,
                                              int64_t block_size, bool clean_queries) {
  if (documents.empty()) return {};
  KeyRanges noisy = make(0, length, has_rows(documents), batch, 2);
  KeyRanges clean = make(length, length, has_rows(documents), batch, 1);
  for (const Document& d : documents) {
    for (int64_t i = 0; i < d.length; ++i) {
      const size_t at = index_of(d, length, i);
      const int64_t block_first = d.start + i / block_size * block_size;
      const int64_t block_last = std::min(block_first + block_size, d.start + d.length);
      noisy.lo[0][at] = clean.lo[0][at] = static_cast<int32_t>(length + d.start);
      noisy.hi[0][at] = static_cast<int32_t>(length + block_first);
      noisy.lo[1][at] = static_cast<int32_t>(block_first);
      noisy.hi[1][at] = static_cast<int32_t>(block_last);
      clean.hi[0][at] = static_cast<int32_t>(length + block_last);
    }
  }
  std::vector<KeyRanges> all{std::move(noisy)};
  if (clean_queries) all.push_back(std::move(clean));
  return all;
}

}  // namespace diffcoder
