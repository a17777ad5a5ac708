#pragma once

// Documents packed into rows: boundaries are data, never a compiled mask.

#include <c10/util/Exception.h>
#include <c10/util/OptionalArrayRef.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace diffcoder {

/// Positions start..start+length of one row. row = -1: of every row (no boundaries inside rows).
struct Document {
  int64_t row = -1, start = 0, length = 0;
};

/// The documents of b rows of s positions. `boundaries` are cumulative starts over the flattened b * s positions, from
/// 0 to b * s, each row's start among them; none, or none but the rows' own: one Document for all rows at once. Empty
/// documents are dropped.
inline std::vector<Document> documents_of(const char* op, c10::OptionalIntArrayRef boundaries, int64_t b, int64_t s) {
  const std::vector<Document> whole_rows{{-1, 0, s}};
  if (!boundaries.has_value()) return whole_rows;
  const c10::IntArrayRef starts = *boundaries;
  TORCH_CHECK_VALUE(starts.size() >= 1 && starts.front() == 0 && starts.back() == b * s, op,
                    ": documents must run from 0 to ", b * s, " (batch * length), got ", starts);
  std::vector<Document> documents;
  bool inside = false;
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    const int64_t start = starts[i], end = starts[i + 1];
    TORCH_CHECK_VALUE(start <= end, op, ": documents must not decrease, got ", start, " before ", end);
    if (start == end) continue;
    TORCH_CHECK_VALUE(start / s == (end - 1) / s, op, ": the document ", start, "..", end,
                      " crosses the end of a row of ", s, " positions; every row's start must be a boundary");
    documents.push_back({start / s, start % s, end - start});
    inside = inside || end - start != s;
  }
  return inside ? documents : whole_rows;
}

/// Documents as plain integers and back, to be saved for a backward pass.
inline std::vector<int64_t> flatten(const std::vector<Document>& documents) {
  std::vector<int64_t> flat;
  flat.reserve(documents.size() * 3);
  for (const Document& d : documents) flat.insert(flat.end(), {d.row, d.start, d.length});
  return flat;
}
inline std::vector<Document> unflatten(const std::vector<int64_t>& flat) {
  std::vector<Document> documents;
  documents.reserve(flat.size() / 3);
  for (size_t i = 0; i + 2 < flat.size(); i += 3) documents.push_back({flat[i], flat[i + 1], flat[i + 2]});
  return documents;
}

}  // namespace diffcoder
