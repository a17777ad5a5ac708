// Rotary position embedding on the CPU, Llama's "rotate half" convention. With x = [x1, x2] the halves of a head:
//   y1 = x1 * cos - x2 * sin        y2 = x2 * cos + x1 * sin
// The gradient is the same turn with the sine's sign changed.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>

#include "registry.h"
#include "rows.h"

namespace diffcoder::rotary_cpu {
namespace {

using namespace simd;

struct Turn {
  const void *x, *cos, *sin;
  void* y;
  int64_t s, h, half;
  int64_t x_b, x_s, x_h;     // distances in elements
  int64_t angle_b, angle_s;  // of cos and sin alike
  bool inverse;
};

/// Positions begin..end of the flattened [b, s].
template <typename I, typename S>
DIFFCODER_INLINE void turn_positions(const Turn& t, int64_t begin, int64_t end) {
  using A = Acc<S>;
  using V = Simd<I, A>;
  const A sign = t.inverse ? A(-1) : A(1);
  for (int64_t p = begin; p < end; ++p) {
    const int64_t b = p / t.s, s = p % t.s;
    const A* cos = static_cast<const A*>(t.cos) + b * t.angle_b + s * t.angle_s;
    const A* sin = static_cast<const A*>(t.sin) + b * t.angle_b + s * t.angle_s;
    const S* x = static_cast<const S*>(t.x) + b * t.x_b + s * t.x_s;
    S* y = static_cast<S*>(t.y) + p * t.h * 2 * t.half;
    for (int64_t h = 0; h < t.h; ++h, x += t.x_h, y += 2 * t.half) {
      const S *x1 = x, *x2 = x + t.half;
      S *y1 = y, *y2 = y + t.half;
      V::for_each(t.half, [&](auto load, auto store, int64_t k) __attribute__((always_inline)) {
        const typename V::Vec a = load(x1 + k), c = load(x2 + k), co = load(cos + k), si = load(sin + k) * sign;
        store(y1 + k, a * co - c * si);
        store(y2 + k, c * co + a * si);
      });
    }
  }
}

DIFFCODER_KERNEL(turn_float, (const Turn& t, int64_t begin, int64_t end), (t, begin, end), turn_positions, float)
DIFFCODER_KERNEL(turn_double, (const Turn& t, int64_t begin, int64_t end), (t, begin, end), turn_positions, double)
DIFFCODER_KERNEL(turn_bfloat16, (const Turn& t, int64_t begin, int64_t end), (t, begin, end), turn_positions,
                 c10::BFloat16)
DIFFCODER_KERNEL(turn_half, (const Turn& t, int64_t begin, int64_t end), (t, begin, end), turn_positions, c10::Half)

at::Tensor rotary(const at::Tensor& x_any, const at::Tensor& cos_any, const at::Tensor& sin_any, bool inverse) {
  const at::Tensor x = x_any.stride(3) == 1 ? x_any : x_any.contiguous();
  const at::ScalarType acc = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor cos = cos_any.to(acc).contiguous(), sin = sin_any.to(acc).contiguous();
  const int64_t b = x.size(0), s = x.size(1), h = x.size(2), d = x.size(3);
  at::Tensor y = at::empty(x.sizes(), x.options());
  const Turn turn{x.const_data_ptr(),
                  cos.const_data_ptr(),
                  sin.const_data_ptr(),
                  y.data_ptr(),
                  s,
                  h,
                  d / 2,
                  x.stride(0),
                  x.stride(1),
                  x.stride(2),
                  cos.size(0) == 1 ? 0 : s * (d / 2),
                  d / 2,
                  inverse};
  const auto kernel = by_dtype(x.scalar_type(), &turn_float, &turn_double, &turn_bfloat16, &turn_half);
  at::parallel_for(0, b * s, std::max<int64_t>(1, 16384 / std::max<int64_t>(h * d, 1)),
                   [&](int64_t begin, int64_t end) { kernel(turn, begin, end); });
  return y;
}

const bool registered = [] {
  kernels(c10::DeviceType::CPU).rotary = &rotary;
  return true;
}();

}  // namespace
}  // namespace diffcoder::rotary_cpu
