// Matrices in int8 on the CPU: weights with one scale per output, activations rounded to int8 row by row as they come.
//   W[o, k] ~ scale[o] * w[o, k]      x[r, k] ~ a[r] * q[r, k]      y[r, o] = scale[o] * a[r] * sum_k w[o, k] q[r, k]
// w and q lie in -127 .. 127 and the sum is exact, so results without a bias do not depend on the machine, and none on
// the rows beside.
//
// Packed weights are uint8 [ceil(out / 16), ceil(in / 4), 16, 4] holding w + 128: one instruction (AVX512-VNNI's
// vpdpbusd) multiplies 16 outputs' next four weights with a row's next four numbers and adds them up. The 128 is taken
// off again by the row's sum.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define DIFFCODER_VNNI
#endif

#include "rows.h"

namespace diffcoder::int8_linear_cpu {
namespace {

using namespace simd;

constexpr int64_t kOutputs = 16, kGroup = 4, kRowsAtOnce = 8;

struct Product {
  const uint8_t* weight;
  const float *scale, *bias;
  int64_t groups, outputs;
  const int8_t* x;  // [rows, groups * 4]
  const float* a;
  const int32_t* shift;  // 128 * the row's sum
  int64_t rows;
  char* y;
  at::ScalarType dtype;
};

/// sums[r][o] of up to kRowsAtOnce rows and one block of 16 outputs.
template <typename I>
DIFFCODER_INLINE void plain_sums(const uint8_t* weight, const int8_t* x, int64_t rows, int64_t groups, int32_t* sums) {
  for (int64_t r = 0; r < rows; ++r) {
    int32_t sum[kOutputs] = {};
    for (int64_t g = 0; g < groups; ++g) {
      const int8_t* q = x + (r * groups + g) * kGroup;
      const uint8_t* w = weight + g * kOutputs * kGroup;
      for (int64_t o = 0; o < kOutputs; ++o) {
        sum[o] += w[4 * o] * q[0] + w[4 * o + 1] * q[1] + w[4 * o + 2] * q[2] + w[4 * o + 3] * q[3];
      }
    }
    std::copy(sum, sum + kOutputs, sums + r * kOutputs);
  }
}

DIFFCODER_KERNEL(sums_plain, (const uint8_t* weight, const int8_t* x, int64_t rows, int64_t groups, int32_t* sums),
                 (weight, x, rows, groups, sums), plain_sums)

#ifdef DIFFCODER_VNNI
template <int rows>
__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni"))) void sums_vnni(const uint8_t* weight, const int8_t* x,
                                                                               int64_t groups, int32_t* sums) {
  __m512i sum[rows];
  for (int r = 0; r < rows; ++r) sum[r] = _mm512_setzero_si512();
  for (int64_t g = 0; g < groups; ++g) {
    const __m512i w = _mm512_loadu_si512(weight + g * kOutputs * kGroup);
    for (int r = 0; r < rows; ++r) {
      int32_t four;
      std::memcpy(&four, x + (r * groups + g) * kGroup, sizeof(four));
      sum[r] = _mm512_dpbusd_epi32(sum[r], w, _mm512_set1_epi32(four));
    }
  }
  for (int r = 0; r < rows; ++r) _mm512_storeu_si512(sums + r * kOutputs, sum[r]);
}

bool has_vnni() {
  static const bool has = instruction_set() == 2 && __builtin_cpu_supports("avx512vnni");
  return has;
}
#endif

void sums_of(const uint8_t* weight, const int8_t* x, int64_t rows, int64_t groups, int32_t* sums) {
#ifdef DIFFCODER_VNNI
  if (has_vnni()) {
    using Sums = void (*)(const uint8_t*, const int8_t*, int64_t, int32_t*);
    static constexpr Sums by_rows[] = {&sums_vnni<1>, &sums_vnni<2>, &sums_vnni<3>, &sums_vnni<4>,
                                       &sums_vnni<5>, &sums_vnni<6>, &sums_vnni<7>, &sums_vnni<8>};
    by_rows[rows - 1](weight, x, groups, sums);
    return;
  }
#endif
  sums_plain(weight, x, rows, groups, sums);
}

/// Blocks of 16 outputs begin .. end, for all rows.
template <typename I>
DIFFCODER_INLINE void multiply(const Product& p, int64_t begin, int64_t end) {
  int32_t sums[kRowsAtOnce * kOutputs];
  float y[kOutputs];
  const int64_t element = static_cast<int64_t>(c10::elementSize(p.dtype));
  // Rows outside: a few rows of activations stay in the first-level cache while a thread's weights pass by.
  for (int64_t block = begin; block < end; ++block) {
    const int64_t first = block * kOutputs, count = std::min(kOutputs, p.outputs - first);
    for (int64_t row = 0; row < p.rows; row += kRowsAtOnce) {
      const int64_t here = std::min(kRowsAtOnce, p.rows - row);
      sums_of(p.weight + block * p.groups * kOutputs * kGroup, p.x + row * p.groups * kGroup, here, p.groups, sums);
      for (int64_t r = 0; r < here; ++r) {
        const int32_t shift = p.shift[row + r];
        const float a = p.a[row + r];
        for (int64_t o = 0; o < count; ++o) {
          y[o] = static_cast<float>(sums[r * kOutputs + o] - shift) * (a * p.scale[first + o]);
          if (p.bias != nullptr) y[o] += p.bias[first + o];
        }
        write_any<I, float>(y, p.dtype, p.y + ((row + r) * p.outputs + first) * element, count);
      }
    }
  }
}

/// A row to int8, its scale and 128 times its sum. A row with NaN or infinity gets the scale NaN.
template <typename I>
DIFFCODER_INLINE void round_row(const float* x, int64_t n, int8_t* out, float* scale, int32_t* shift) {
  float most = 0, check = 0;
  for (int64_t i = 0; i < n; ++i) {
    most = std::max(most, std::abs(x[i]));
    check += x[i] * 0;
  }
  *scale = check == 0 ? most / 127 : std::numeric_limits<float>::quiet_NaN();
  const float inverse = check == 0 && most > 0 ? 127 / most : 0;
  int32_t sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int32_t q = inverse == 0 ? 0 : static_cast<int32_t>(std::nearbyintf(x[i] * inverse));
    out[i] = static_cast<int8_t>(q);
    sum += q;
  }
  *shift = 128 * sum;
}

DIFFCODER_KERNEL(multiply_blocks, (const Product& p, int64_t begin, int64_t end), (p, begin, end), multiply)
DIFFCODER_KERNEL(round_float, (const float* x, int64_t n, int8_t* out, float* scale, int32_t* shift),
                 (x, n, out, scale, shift), round_row)

/// weight [out, in] of any float type -> (packed uint8 [ceil(out / 16), ceil(in / 4), 16, 4], scales float32 [out]).
std::tuple<at::Tensor, at::Tensor> int8_pack(const at::Tensor& weight_any) {
  TORCH_CHECK_VALUE(weight_any.dim() == 2 && weight_any.numel() > 0 && weight_any.is_cpu(),
                    "int8_pack: a matrix on the CPU is needed, got ", weight_any.sizes());
  const at::Tensor weight = weight_any.detach().to(at::kFloat).contiguous();
  const int64_t outputs = weight.size(0), inputs = weight.size(1);
  const int64_t blocks = (outputs + kOutputs - 1) / kOutputs, groups = (inputs + kGroup - 1) / kGroup;
  at::Tensor packed = at::empty({blocks, groups, kOutputs, kGroup}, weight.options().dtype(at::kByte));
  at::Tensor scales = at::empty({outputs}, weight.options());
  uint8_t* p = packed.data_ptr<uint8_t>();
  std::fill(p, p + packed.numel(), uint8_t{128});
  std::vector<int8_t> row(static_cast<size_t>(inputs));
  int32_t unused = 0;
  for (int64_t o = 0; o < outputs; ++o) {
    round_float(weight.const_data_ptr<float>() + o * inputs, inputs, row.data(), scales.data_ptr<float>() + o, &unused);
    uint8_t* block = p + (o / kOutputs) * groups * kOutputs * kGroup + (o % kOutputs) * kGroup;
    for (int64_t k = 0; k < inputs; ++k) {
      block[k / kGroup * kOutputs * kGroup + k % kGroup] = static_cast<uint8_t>(row[static_cast<size_t>(k)] + 128);
    }
  }
  return {packed, scales};
}

/// x [.., in] -> [.., out] in x's dtype.
at::Tensor int8_linear(const at::Tensor& x_any, const at::Tensor& packed, const at::Tensor& scales,
                       const std::optional<at::Tensor>& bias) {
  TORCH_CHECK_VALUE(x_any.dim() >= 1 && x_any.is_cpu() && packed.dim() == 4 && packed.size(2) == kOutputs &&
                        packed.size(3) == kGroup && packed.scalar_type() == at::kByte && packed.is_contiguous() &&
                        packed.size(1) == (x_any.size(-1) + kGroup - 1) / kGroup &&
                        scales.scalar_type() == at::kFloat && scales.is_contiguous() &&
                        packed.size(0) == (scales.numel() + kOutputs - 1) / kOutputs,
                    "int8_linear: x [.., in] on the CPU and the two tensors of int8_pack are needed, got ",
                    x_any.sizes(), ", ", packed.sizes(), " and ", scales.sizes());
  TORCH_CHECK_NOT_IMPLEMENTED(!at::GradMode::is_enabled() || !x_any.requires_grad(), "int8_linear has no gradient");
  const at::Tensor x = x_any.to(at::kFloat).contiguous();
  const int64_t inputs = x.size(-1), rows = inputs == 0 ? 0 : x.numel() / inputs, outputs = scales.numel();
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  sizes.back() = outputs;
  at::Tensor y = at::empty(sizes, x_any.options());
  if (y.numel() == 0) return y;
  at::Tensor held;
  if (bias && bias->defined()) {
    TORCH_CHECK_VALUE(bias->numel() == outputs, "int8_linear: a bias of ", outputs, " is needed, got ", bias->sizes());
    held = bias->to(at::kFloat).contiguous();
  }
  const int64_t groups = packed.size(1), width = groups * kGroup;
  std::vector<int8_t> q(static_cast<size_t>(rows * width));
  std::vector<float> a(static_cast<size_t>(rows));
  std::vector<int32_t> shift(static_cast<size_t>(rows));
  const float* source = x.const_data_ptr<float>();
  for (int64_t r = 0; r < rows; ++r) {
    round_float(source + r * inputs, inputs, q.data() + r * width, &a[static_cast<size_t>(r)],
                &shift[static_cast<size_t>(r)]);
  }
  const Product p{packed.const_data_ptr<uint8_t>(),
                  scales.const_data_ptr<float>(),
                  held.defined() ? held.const_data_ptr<float>() : nullptr,
                  groups,
                  outputs,
                  q.data(),
                  a.data(),
                  shift.data(),
                  rows,
                  static_cast<char*>(y.data_ptr()),
                  y.scalar_type()};
  const int64_t grain = std::max<int64_t>(1, 65536 / std::max<int64_t>(1, rows * width));
  at::parallel_for(0, packed.size(0), grain, [&](int64_t begin, int64_t end) { multiply_blocks(p, begin, end); });
  return y;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(diffcoder, m) {
  m.def("int8_pack(Tensor weight) -> (Tensor packed, Tensor scales)", &int8_pack);
  m.def("int8_linear(Tensor x, Tensor packed, Tensor scales, Tensor? bias=None) -> Tensor", &int8_linear);
}

}  // namespace diffcoder::int8_linear_cpu
