// Samples tokens from rows of logits, on the CPU: for every row the most likely token or a draw, and the measures of
// its confidence. Draws equal those of lib/engine/sample-token.ts: Gumbel noise from the Philox stream (seed, "gumb",
// position, pass), in float64.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "simd.h"

namespace diffcoder::choose_tokens_cpu {
namespace {

using namespace simd;

constexpr double kNone = -std::numeric_limits<double>::infinity();

// ---- Philox4x32-10, as lib/torch/philox.ts ----

using Words = std::array<uint32_t, 4>;

inline Words philox(Words c, uint32_t k0, uint32_t k1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xd2511f53} * c[0], b = uint64_t{0xcd9e8d57} * c[2];
    c = {static_cast<uint32_t>(b >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(b),
         static_cast<uint32_t>(a >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(a)};
    k0 += 0x9e3779b9;
    k1 += 0xbb67ae85;
  }
  return c;
}

/// The uniform numbers of one stream: number i is words 2i and 2i + 1.
class Uniforms {
 public:
  Uniforms(int64_t seed, int64_t position, int64_t pass) {
    constexpr uint32_t absorb = 0x80000000, gumbel = 0x67756d62;
    Words key = {static_cast<uint32_t>(seed), static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32), 0, 0};
    key = philox({gumbel, 0, 0, absorb}, key[0], key[1]);
    key = philox({low(position), high(position), 1, absorb}, key[0], key[1]);
    k0_ = key[0];
    k1_ = key[1];
    pass_ = pass;
  }

  /// Numbers 2 * pair and 2 * pair + 1, in [0, 1).
  std::array<double, 2> pair(int64_t index) const {
    const Words w = philox({static_cast<uint32_t>(index), low(pass_), high(pass_), 3}, k0_, k1_);
    const auto join = [](uint32_t a, uint32_t b) {
      return (static_cast<double>(a >> 5) * 67108864.0 + static_cast<double>(b >> 6)) / 9007199254740992.0;
    };
    return {join(w[0], w[1]), join(w[2], w[3])};
  }

 private:
  static uint32_t low(int64_t x) { return static_cast<uint32_t>(x); }
  static uint32_t high(int64_t x) { return static_cast<uint32_t>(static_cast<uint64_t>(x) >> 32); }

  uint32_t k0_, k1_;
  int64_t pass_;
};

// ---- what is measured of a row ----

struct RowStatistics {
  double highest, normaliser, entropy;
  int64_t id;
};

/// exp in float32 (2 units in the last place), sums in float64: next to 1 the tail's relative error is what counts.
template <typename I>
DIFFCODER_INLINE void measure(const float* x, int64_t n, RowStatistics* out) {
  using V = Simd<I, float>;
  constexpr float none = -std::numeric_limits<float>::infinity();
  typename V::Vec top = V::splat(none);
  int64_t i = 0;
  for (; i + V::lanes <= n; i += V::lanes) top = V::max(top, V::load(x + i));
  float highest = V::reduce_max(top);
  for (int64_t j = i; j < n; ++j) highest = x[j] > highest ? x[j] : highest;
  int64_t id = 0;
  while (id < n - 1 && x[id] != highest) ++id;
  double sum = 0, weighted = 0;
  const auto add = [&](const float* e, const float* shifted, int64_t count) {
    // Four chains of float64 additions; terms at -infinity weigh nothing.
    double s[4] = {}, w[4] = {};
    for (int64_t k = 0; k < count; ++k) {
      s[k & 3] += e[k];
      w[k & 3] += e[k] > 0 ? static_cast<double>(e[k]) * shifted[k] : 0;
    }
    sum += (s[0] + s[1]) + (s[2] + s[3]);
    weighted += (w[0] + w[1]) + (w[2] + w[3]);
  };
  float e[64], shifted[64];
  for (int64_t from = 0; from < n; from += 64) {
    const int64_t count = std::min<int64_t>(64, n - from);
    for (int64_t k = 0; k < count; ++k) shifted[k] = x[from + k] - highest;
    for (int64_t k = count; k < 64; ++k) shifted[k] = none;
    for (int64_t k = 0; k < 64; k += V::lanes) V::store(e + k, V::exp(V::load(shifted + k)));
    add(e, shifted, count);
  }
  // ln p_i = shifted_i - ln sum, so the entropy is ln sum - (sum e_i shifted_i) / sum.
  const double log_sum = std::log(sum);
  *out = {highest, highest + log_sum, log_sum - weighted / sum, id};
}

DIFFCODER_KERNEL(measure_row, (const float* x, int64_t n, RowStatistics* out), (x, n, out), measure)

// ---- draws ----

struct Draw {
  double temperature, top_p, min_p;
  int64_t top_k, seed, position, pass;
};

/// 1 where top-k, top-p and min-p leave a token; empty where they leave all.
std::vector<uint8_t> filter(const float* x, int64_t n, const Draw& draw, double highest) {
  const auto relative = [&](float value) {
    return std::exp((static_cast<double>(value) - highest) / draw.temperature);
  };
  std::vector<uint8_t> allowed;
  if (draw.top_k <= 0 && draw.top_p >= 1) {
    if (draw.min_p <= 0) return allowed;
    allowed.resize(static_cast<size_t>(n));
    for (int64_t v = 0; v < n; ++v) allowed[static_cast<size_t>(v)] = relative(x[v]) >= draw.min_p;
    return allowed;
  }
  allowed.resize(static_cast<size_t>(n));
  std::vector<int32_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  const auto likelier = [x](int32_t a, int32_t b) { return x[a] > x[b] || (x[a] == x[b] && a < b); };
  const int64_t count = draw.top_k > 0 ? std::min(draw.top_k, n) : n;
  if (count < n) std::nth_element(order.begin(), order.begin() + count, order.end(), likelier);
  double total = 0;
  for (int64_t i = 0; i < count; ++i) total += relative(x[order[static_cast<size_t>(i)]]);
  double covered = 0;
  // Mostly a few tokens cover top-p: sorted in growing pieces.
  int64_t sorted = 0;
  for (int64_t i = 0; i < count && covered < draw.top_p * total; ++i) {
    if (i == sorted) {
      const int64_t next = std::min(count, std::max<int64_t>(32, 4 * sorted));
      std::partial_sort(order.begin() + sorted, order.begin() + next, order.begin() + count, likelier);
      sorted = next;
    }
    const int32_t v = order[static_cast<size_t>(i)];
    const double weight = relative(x[v]);
    if (weight < draw.min_p) break;
    allowed[static_cast<size_t>(v)] = 1;
    covered += weight;
  }
  return allowed;
}

/// arg max of logit / temperature + Gumbel noise, a sample of the tempered softmax (first one of equals). A token with
/// uniform number u beats the best so far only if -ln u < exp(score difference), and 1 - u <= -ln u: that spares all
/// but a few tokens their logarithms.
int64_t draw_token(const float* x, int64_t n, const Draw& draw, double highest) {
  const std::vector<uint8_t> allowed = filter(x, n, draw, highest);
  const Uniforms random(draw.seed, draw.position, draw.pass);
  double best = kNone;
  int64_t id = -1;
  for (int64_t v = 0; v < n; v += 2) {
    if (!allowed.empty() && !allowed[static_cast<size_t>(v)] && (v + 1 >= n || !allowed[static_cast<size_t>(v + 1)])) {
      continue;
    }
    const std::array<double, 2> u = random.pair(v / 2);
    for (int64_t k = 0; k < 2 && v + k < n; ++k) {
      const int64_t at = v + k;
      if (!allowed.empty() && !allowed[static_cast<size_t>(at)]) continue;
      const double tempered = static_cast<double>(x[at]) / draw.temperature;
      const double ahead = tempered - best;
      if (ahead < -40) continue;  // no noise is that large
      if (ahead < 1 && (1 - u[static_cast<size_t>(k)]) > std::exp(static_cast<float>(ahead)) * 1.0001) continue;
      const double gumbel = -std::log(-std::log(u[static_cast<size_t>(k)] + 0x1p-54));
      if (tempered + gumbel > best) {
        best = tempered + gumbel;
        id = at;
      }
    }
  }
  return id;
}

/// logits float32 [n, v]; settings float64 [n, 8]: temperature, top-p, min-p, top-k, seed, position, pass, candidate.
/// -> float64 [5, n]: the token chosen, its logit, ln sum exp of the row, the row's entropy, the candidate's logit.
/// Temperature 0: the likeliest token, the first of equals. Candidate -1: none. The row's numbers are untempered.
at::Tensor choose_tokens(const at::Tensor& logits_any, const at::Tensor& settings_any) {
  TORCH_CHECK_VALUE(logits_any.dim() == 2 && logits_any.size(1) > 0 && settings_any.dim() == 2 &&
                        settings_any.size(0) == logits_any.size(0) && settings_any.size(1) == 8,
                    "choose_tokens: logits must be [n, v] and settings [n, 8], got ", logits_any.sizes(), " and ",
                    settings_any.sizes());
  TORCH_CHECK_TYPE(logits_any.scalar_type() == at::kFloat && settings_any.scalar_type() == at::kDouble &&
                       logits_any.is_cpu() && settings_any.is_cpu(),
                   "choose_tokens: logits must be float32 and settings float64, on the CPU");
  const at::Tensor logits = logits_any.contiguous(), settings = settings_any.contiguous();
  const int64_t n = logits.size(0), vocabulary = logits.size(1);
  at::Tensor out = at::empty({5, n}, settings.options());
  const float* x = logits.const_data_ptr<float>();
  const double* set = settings.const_data_ptr<double>();
  double* result = out.data_ptr<double>();
  at::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* values = x + row * vocabulary;
      const double* s = set + row * 8;
      RowStatistics seen;
      measure_row(values, vocabulary, &seen);
      const auto whole = [s](int i) { return static_cast<int64_t>(s[i]); };
      const int64_t candidate = whole(7);
      TORCH_CHECK_INDEX(candidate < vocabulary, "choose_tokens: candidate ", candidate, " of ", vocabulary, " tokens");
      int64_t id = seen.id;
      if (s[0] > 0 && std::isfinite(seen.normaliser)) {
        const int64_t drawn =
            draw_token(values, vocabulary, {s[0], s[1], s[2], whole(3), whole(4), whole(5), whole(6)}, seen.highest);
        if (drawn >= 0) id = drawn;
      }
      result[row] = static_cast<double>(id);
      result[n + row] = values[id];
      result[2 * n + row] = seen.normaliser;
      result[3 * n + row] = seen.entropy;
      result[4 * n + row] = candidate < 0 ? 0 : values[candidate];
    }
  });
  return out;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(diffcoder, m) {
  m.def("choose_tokens(Tensor logits, Tensor settings) -> Tensor", &choose_tokens);
}

}  // namespace diffcoder::choose_tokens_cpu
