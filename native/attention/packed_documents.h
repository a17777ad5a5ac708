#pragma once

// Documents as variable-length flash attention wants them: cumulative lengths on the device, over the flattened
// [b * s] positions.

#include <ATen/core/Tensor.h>

#include <vector>

#include "documents.h"

namespace diffcoder {

/// Consecutive segments of a packed sequence.
struct Segments {
  at::Tensor starts;          // int32 [n + 1] on the device, from 0 to the packed length
  std::vector<int32_t> host;  // the same on the host
  int64_t longest = 0;        // the longest segment
};

struct PackedDocuments {
  Segments documents;
  /// Of the packed sequence less its last `block_size` positions: index i pairs query i + block_size with key i, so the
  /// document [s, e) becomes [s, e - block_size) and what lies between such segments pairs positions of different
  /// documents, to be discarded.
  Segments shifted;
  at::Tensor
      places;  // int32 [2, b * s]: first and one past the last position of each position's document, within its row
  at::Tensor has_earlier;  // bool [b * s - block_size]: whether index i of `shifted` lies within a document's segment
};

/// For block size 0: `documents` alone. The copies to the device do not wait for it; the latest result is kept, as
/// every layer asks for the same.
PackedDocuments pack_documents(const std::vector<Document>& documents, int64_t batch, int64_t length,
                               int64_t block_size, c10::Device device);

}  // namespace diffcoder
