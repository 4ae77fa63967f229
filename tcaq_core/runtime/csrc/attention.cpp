// Attention between its two integer products: codes centred for signed arithmetic,
// scores to a softmax map on its grid, sums of products back to floats.

#include <vector>

#include "vectors.h"

namespace {

using tcaq::code_of;
using tcaq::exponential;
using tcaq::logarithm2;

constexpr long LANES = 16;

// Scores of one row, from exact integers: in floats (already centred) or as sums of
// products of codes minus 128, whose missing terms are added here.
struct Scores {
  const float* centred;
  const int32_t* products;
  const int32_t* column_sums;
  int32_t row_term, column_factor;
  float factor;
};

WIDEST float logits_of(Scores in, long count, float* out) {
  float lanes[LANES];
  for (float& lane : lanes) lane = -INFINITY;
  if (in.products == nullptr)
    for (long j = 0; j < count; ++j) out[j] = in.centred[j] * in.factor;
  else
    for (long j = 0; j < count; ++j) {
      const int32_t sum =
          in.products[j] + in.row_term + in.column_factor * in.column_sums[j];
      out[j] = static_cast<float>(sum) * in.factor;
    }
  const long whole = count / LANES * LANES;
  for (long j = 0; j < whole; j += LANES)
    for (long l = 0; l < LANES; ++l) lanes[l] = std::max(lanes[l], out[j + l]);
  for (long j = whole; j < count; ++j) lanes[0] = std::max(lanes[0], out[j]);
  return *std::max_element(lanes, lanes + LANES);
}

// Exponentials relative to the row's largest score, in place; returns their sum.
WIDEST float exponentials(float* x, long count, float largest) {
  float lanes[LANES] = {};
  const long whole = count / LANES * LANES;
  for (long j = 0; j < count; ++j) x[j] = exponential(x[j] - largest);
  for (long j = 0; j < whole; j += LANES)
    for (long l = 0; l < LANES; ++l) lanes[l] += x[j + l];
  for (long j = whole; j < count; ++j) lanes[0] += x[j];
  float sum = 0;
  for (float lane : lanes) sum += lane;
  return sum;
}

WIDEST int32_t center_row(const uint8_t* x, long count, int8_t* out, int32_t* columns) {
  int32_t total = 0;
  for (long j = 0; j < count; ++j) {
    const int32_t centred = static_cast<int32_t>(x[j]) - 128;
    out[j] = static_cast<int8_t>(centred);
    total += centred;
  }
  if (columns != nullptr)
    for (long j = 0; j < count; ++j) columns[j] += out[j];
  return total;
}

// A uniform map: codes minus 128 and their sum.
WIDEST int32_t map_codes(const float* x, long count, float sum, float inverse, float top,
                         int8_t* out) {
  int32_t total = 0;
  for (long j = 0; j < count; ++j) {
    const auto code =
        static_cast<int32_t>(code_of(x[j] / sum, inverse, 0.0f, top)) - 128;
    out[j] = static_cast<int8_t>(code);
    total += code;
  }
  return total;
}

WIDEST void map_code_values(const float* x, long count, float sum, float inverse,
                            float top, float* out) {
  for (long j = 0; j < count; ++j) out[j] = code_of(x[j] / sum, inverse, 0.0f, top);
}

// A logarithmic map: table[q] of q = round(-log2(a / scale) / log_step); q > top is 0.
WIDEST void map_log_values(const float* x, long count, float sum, float inverse,
                           float per_step, float size, const float* table, float* out) {
  for (long j = 0; j < count; ++j) {
    const float code = rintf(-logarithm2(x[j] / sum * inverse) * per_step);
    out[j] = std::min(std::max(code, 0.0f), size);
  }
  for (long j = 0; j < count; ++j) out[j] = table[static_cast<int32_t>(out[j])];
}

}  // namespace

extern "C" {

// Codes (N, L, heads * depth) -> codes minus 128 by head (N, heads, L, depth), with
// their sums over the depth (N, heads, L) and, unless null, over L (N, heads, depth).
void tcaq_center(const uint8_t* codes, long samples, long length, long heads, long depth,
                 int8_t* out, int32_t* row_sums, int32_t* column_sums) {
#pragma omp parallel for schedule(static)
  for (long map = 0; map < samples * heads; ++map) {
    const uint8_t* from = codes + (map / heads * length * heads + map % heads) * depth;
    int8_t* to = out + map * length * depth;
    int32_t* columns = column_sums == nullptr ? nullptr : column_sums + map * depth;
    if (columns != nullptr) std::fill(columns, columns + depth, 0);
    for (long i = 0; i < length; ++i, from += heads * depth, to += depth) {
      row_sums[map * length + i] = center_row(from, depth, to, columns);
    }
  }
}

// Softmax of (maps, rows, columns) scores, onto a uniform grid or powers of a base.
//
// Either `centred` floats, or int32 `products` of codes minus 128 with the sums of the
// row's and the column's own codes; row_factor and column_factor are 128 - zero point
// of the other operand, constant their product times the depth. `table` holds the
// values of a logarithmic grid and a last zero, or is null. Uniform maps come out as
// `codes` minus 128 with `code_sums`, if those are given, else as float codes.
void tcaq_softmax(const float* centred, const int32_t* products, long maps, long rows,
                  long columns, const int32_t* row_sums, const int32_t* column_sums,
                  int row_factor, int column_factor, int constant, float factor,
                  float inverse, float top, const float* table, float per_step,
                  int8_t* codes, int32_t* code_sums, float* values) {
#pragma omp parallel
  {
    std::vector<float> row(columns);
#pragma omp for schedule(static)
    for (long i = 0; i < maps * rows; ++i) {
      Scores in{nullptr, nullptr, nullptr, 0, column_factor, factor};
      if (products == nullptr) {
        in.centred = centred + i * columns;
      } else {
        in.products = products + i * columns;
        in.column_sums = column_sums + i / rows * columns;
        in.row_term = row_factor * row_sums[i] + constant;
      }
      const float largest = logits_of(in, columns, row.data());
      const float sum = exponentials(row.data(), columns, largest);
      if (table != nullptr)
        map_log_values(row.data(), columns, sum, inverse, per_step,
                       top + 1.0f, table, values + i * columns);
      else if (codes != nullptr)
        code_sums[i] =
            map_codes(row.data(), columns, sum, inverse, top, codes + i * columns);
      else
        map_code_values(row.data(), columns, sum, inverse, top, values + i * columns);
    }
  }
}

// int32 products (N, heads, L, depth) of codes minus 128 -> what the codes stand for,
// (N, L, heads * depth) floats; sums, factors and constant as for tcaq_softmax.
void tcaq_rescale(const int32_t* products, long samples, long length, long heads,
                  long depth, const int32_t* row_sums, const int32_t* column_sums,
                  int row_factor, int column_factor, int constant, float factor,
                  float* out) {
#pragma omp parallel for schedule(static)
  for (long i = 0; i < samples * heads * length; ++i) {
    const long map = i / length, row = i % length;
    const Scores in{nullptr,
                    products + i * depth,
                    column_sums + map * depth,
                    row_factor * row_sums[i] + constant,
                    column_factor,
                    factor};
    const long at = (map / heads * length + row) * heads + map % heads;
    logits_of(in, depth, out + at * depth);
  }
}

}  // extern "C"
