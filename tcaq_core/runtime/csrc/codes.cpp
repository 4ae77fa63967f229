// What lies between two integer products, fused: normalise, activate, rescale, quantize
// in one pass over channels-last activations.
//
// Plain C functions on pointers, called through ctypes: no torch header, so the files
// compile in seconds and fit every torch.

#include <vector>

#include "vectors.h"

namespace {

using tcaq::code_of;
using tcaq::sigmoid_linear;

struct Grid {
  float inverse, zero_point, top;
};

constexpr long ROWS = 8;

// Sums over the pixels of one chunk, by channel, of x - pivot and of its square: the
// pivot, a pixel of the same image, keeps a large mean from swallowing the variance.
// A few pixels are added in float, then their sums in double.
WIDEST void add_moments(const float* x, long pixels, long channels, const float* pivot,
                        double* sum, double* square) {
  const long whole = pixels / ROWS * ROWS;
  for (long p = 0; p < whole; p += ROWS, x += ROWS * channels) {
    for (long c = 0; c < channels; ++c) {
      float s = 0, q = 0;
      for (long k = 0; k < ROWS; ++k) {
        const float v = x[k * channels + c] - pivot[c];
        s += v;
        q += v * v;
      }
      sum[c] += s;
      square[c] += q;
    }
  }
  for (long p = whole; p < pixels; ++p, x += channels) {
    for (long c = 0; c < channels; ++c) {
      const double v = x[c] - pivot[c];
      sum[c] += v;
      square[c] += v * v;
    }
  }
}

// Coefficients of one source's channels; a null pointer leaves the operation out.
struct Affine {
  const float *shift, *scale, *offset, *reciprocal;
};

template <bool SHIFT, bool NORM, bool SILU, bool RESCALE>
ALWAYS float transformed(float v, const Affine& by, long c) {
  if (SHIFT) v = v + by.shift[c];
  if (NORM) v = v * by.scale[c] + by.offset[c];
  if (SILU) v = sigmoid_linear(v);
  if (RESCALE) v = v * by.reciprocal[c];
  return v;
}

template <bool SHIFT, bool NORM, bool SILU, bool RESCALE>
ALWAYS void write_codes(const float* x, long pixels, long channels, const Affine& by,
                        const Grid& grid, uint8_t* out, long out_stride) {
  for (long p = 0; p < pixels; ++p, x += channels, out += out_stride) {
    for (long c = 0; c < channels; ++c) {
      const float v = transformed<SHIFT, NORM, SILU, RESCALE>(x[c], by, c);
      out[c] = static_cast<uint8_t>(static_cast<int32_t>(
          code_of(v, grid.inverse, grid.zero_point, grid.top)));
    }
  }
}

// The combinations that a denoiser has; each a loop without branches.
WIDEST void codes_plain(const float* x, long p, long c, Affine by, Grid g, uint8_t* out,
                        long stride) {
  if (by.reciprocal != nullptr)
    write_codes<false, false, false, true>(x, p, c, by, g, out, stride);
  else
    write_codes<false, false, false, false>(x, p, c, by, g, out, stride);
}

WIDEST void codes_norm(const float* x, long p, long c, Affine by, Grid g, uint8_t* out,
                       long stride) {
  if (by.shift != nullptr && by.reciprocal != nullptr)
    write_codes<true, true, false, true>(x, p, c, by, g, out, stride);
  else if (by.shift != nullptr)
    write_codes<true, true, false, false>(x, p, c, by, g, out, stride);
  else if (by.reciprocal != nullptr)
    write_codes<false, true, false, true>(x, p, c, by, g, out, stride);
  else
    write_codes<false, true, false, false>(x, p, c, by, g, out, stride);
}

WIDEST void codes_norm_silu(const float* x, long p, long c, Affine by, Grid g,
                            uint8_t* out, long stride) {
  if (by.shift != nullptr && by.reciprocal != nullptr)
    write_codes<true, true, true, true>(x, p, c, by, g, out, stride);
  else if (by.shift != nullptr)
    write_codes<true, true, true, false>(x, p, c, by, g, out, stride);
  else if (by.reciprocal != nullptr)
    write_codes<false, true, true, true>(x, p, c, by, g, out, stride);
  else
    write_codes<false, true, true, false>(x, p, c, by, g, out, stride);
}

struct Source {
  const float* data;
  long channels, first;
};

// Pieces of a sample that threads share. It depends on the image alone, so that sums,
// and with them every code, are the same for any number of threads and any batch.
long chunks_of(long pixels) { return std::max(1L, std::min(8L, pixels / 32)); }

// What one channel of a sample sums up to.
struct Moments {
  double mean, square;
};

// Mean and variance of every group -> y = v * scale + offset, for one sample.
void fold_norm(long channels, long groups, const Moments* of, const float* gamma,
               const float* beta, float eps, float* scale, float* offset) {
  const long size = channels / groups;
  for (long g = 0; g < groups; ++g) {
    double mean = 0, variance = 0;
    for (long c = g * size; c < (g + 1) * size; ++c) mean += of[c].mean / size;
    for (long c = g * size; c < (g + 1) * size; ++c) {
      const double off = of[c].mean - mean;
      variance += (of[c].square + off * off) / size;
    }
    const float rstd = static_cast<float>(1.0 / std::sqrt(variance + eps));
    for (long c = g * size; c < (g + 1) * size; ++c) {
      scale[c] = rstd * gamma[c];
      offset[c] = beta[c] - scale[c] * static_cast<float>(mean);
    }
  }
}

}  // namespace

extern "C" {

// Raised with every change of a signature below; tcaq_core/runtime/native.py checks it.
int tcaq_abi() { return 3; }

// x: (N, P, Ca) and, unless null, (N, P, Cb) -> codes (N, P, Ca + Cb).
void tcaq_norm_quantize(const float* a, long ca, const float* b, long cb, long samples,
                        long pixels, const float* shift, const float* gamma,
                        const float* beta, long groups, float eps,
                        const float* reciprocal, int silu, float inverse,
                        float zero_point, float top, uint8_t* out) {
  const long channels = ca + cb, chunks = chunks_of(pixels);
  const Source sources[2] = {{a, ca, 0}, {b, cb, ca}};
  const int count = b == nullptr ? 1 : 2;
  const Grid grid{inverse, zero_point, top};
  std::vector<double> sums(samples * chunks * channels * 2, 0.0);
  std::vector<Moments> moments(samples * channels);
  std::vector<float> scale(samples * channels), offset(samples * channels);
  auto first = [&](long k) { return pixels * k / chunks; };

#pragma omp parallel
  {
#pragma omp for schedule(static)
    for (long task = 0; task < samples * chunks; ++task) {
      const long n = task / chunks, from = first(task % chunks);
      double* sum = &sums[task * channels * 2];
      for (int s = 0; s < count; ++s) {
        const Source& in = sources[s];
        const float* image = in.data + n * pixels * in.channels;
        add_moments(image + from * in.channels, first(task % chunks + 1) - from,
                    in.channels, image, sum + in.first, sum + channels + in.first);
      }
    }
#pragma omp for schedule(static)
    for (long n = 0; n < samples; ++n) {
      double* sum = &sums[n * chunks * channels * 2];
      for (long k = 1; k < chunks; ++k)
        for (long c = 0; c < channels * 2; ++c) sum[c] += sum[k * channels * 2 + c];
      for (int s = 0; s < count; ++s) {
        const Source& in = sources[s];
        for (long c = 0; c < in.channels; ++c) {
          const long at = in.first + c;
          const double mean = sum[at] / pixels;
          const double pivot = in.data[n * pixels * in.channels + c];
          const double moved = shift == nullptr ? 0.0 : shift[n * channels + at];
          const double square = sum[channels + at] / pixels - mean * mean;
          moments[n * channels + at] = {mean + pivot + moved, std::max(square, 0.0)};
        }
      }
      fold_norm(channels, groups, &moments[n * channels], gamma, beta, eps,
                &scale[n * channels], &offset[n * channels]);
    }
#pragma omp for schedule(static)
    for (long task = 0; task < samples * chunks; ++task) {
      const long n = task / chunks, from = first(task % chunks);
      const long size = first(task % chunks + 1) - from;
      for (int s = 0; s < count; ++s) {
        const Source& in = sources[s];
        const long at = n * channels + in.first;
        const Affine by{shift == nullptr ? nullptr : shift + at, &scale[at], &offset[at],
                        reciprocal == nullptr ? nullptr : reciprocal + in.first};
        (silu ? codes_norm_silu : codes_norm)(
            in.data + (n * pixels + from) * in.channels, size, in.channels, by, grid,
            out + (n * pixels + from) * channels + in.first, channels);
      }
    }
  }
}

// x: (M, Ca) and, unless null, (M, Cb) -> codes (M, Ca + Cb).
void tcaq_quantize(const float* a, long ca, const float* b, long cb, long rows,
                   const float* reciprocal, float inverse, float zero_point, float top,
                   uint8_t* out) {
  const Grid grid{inverse, zero_point, top};
  const Source sources[2] = {{a, ca, 0}, {b, cb, ca}};
  const int count = b == nullptr ? 1 : 2;
  const long channels = ca + cb;
  const long chunks = std::max(1L, std::min(rows, rows * channels / 4096));
#pragma omp parallel for schedule(static) if (chunks > 1)
  for (long k = 0; k < chunks; ++k) {
    const long from = rows * k / chunks, size = rows * (k + 1) / chunks - from;
    for (int s = 0; s < count; ++s) {
      const Source& in = sources[s];
      const Affine by{nullptr, nullptr, nullptr,
                      reciprocal == nullptr ? nullptr : reciprocal + in.first};
      codes_plain(in.data + from * in.channels, size, in.channels, by, grid,
                  out + from * channels + in.first, channels);
    }
  }
}

}  // extern "C"
