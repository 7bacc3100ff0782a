// SPDX-License-Identifier: Apache-2.0
#include "plain_loops.h"

#include <cmath>

namespace omniconv {

Plain plain(const Problem& problem, const Values& narrow, const Values& wide, const Values& weights) {
  const Axis(&axis)[3] = problem.axis;
  const int64_t narrow_positions = axis[0].narrow * axis[1].narrow * axis[2].narrow;
  const int64_t wide_positions = axis[0].wide * axis[1].wide * axis[2].wide;
  const int64_t taps = axis[0].taps * axis[1].taps * axis[2].taps;
  Plain found;
  found.narrow.resize(narrow.size());
  found.wide.resize(wide.size());
  found.weights.resize(problem.groups * problem.narrow * problem.wide * taps);
  found.totals.resize(problem.groups * problem.narrow);
  for (size_t i = 0; i < narrow.size(); ++i) found.totals[i / narrow_positions % found.totals.size()] += narrow[i];

  // Which narrow position meets which wide one at which tap.
  struct Meeting {
    int64_t narrow, wide, tap;
  };
  std::vector<Meeting> meetings;
  for (int64_t position = 0; position < narrow_positions; ++position) {
    const int64_t p[3] = {position / axis[2].narrow / axis[1].narrow, position / axis[2].narrow % axis[1].narrow,
                          position % axis[2].narrow};
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t k[3] = {tap / axis[2].taps / axis[1].taps, tap / axis[2].taps % axis[1].taps, tap % axis[2].taps};
      int64_t met = 0;
      bool inside = true;
      for (int i = 0; i < 3; ++i) {
        const int64_t at = axis[i].stride * p[i] + axis[i].dilation * k[i] - axis[i].before;
        inside = inside && at >= 0 && at < axis[i].wide;
        met = met * axis[i].wide + at;
      }
      if (inside) meetings.push_back({position, met, tap});
    }
  }
  for (int64_t sample = 0; sample < problem.batch; ++sample)
    for (int64_t group = 0; group < problem.groups; ++group)
      for (int64_t n = 0; n < problem.narrow; ++n)
        for (int64_t w = 0; w < problem.wide; ++w) {
          const int64_t narrow_at = ((sample * problem.groups + group) * problem.narrow + n) * narrow_positions;
          const int64_t wide_at = ((sample * problem.groups + group) * problem.wide + w) * wide_positions;
          const int64_t weights_at = ((group * problem.narrow + n) * problem.wide + w) * taps;
          for (const Meeting& met : meetings) {
            const double x = wide[wide_at + met.wide], y = narrow[narrow_at + met.narrow];
            const double factor = weights[weights_at + met.tap];
            found.narrow[narrow_at + met.narrow] += factor * x;
            found.wide[wide_at + met.wide] += factor * y;
            found.weights[weights_at + met.tap] += x * y;
          }
        }
  return found;
}

PlainSeparable plain_separable(const Problem& problem, const Values& input, const Values& grad, const Values& column,
                               const Values& row) {
  const auto integers = [](const std::vector<double>& values) { return Values(values.begin(), values.end()); };
  Problem down = problem, along = problem;
  const int64_t columns = problem.axis[2].wide, rows = problem.axis[1].narrow;
  down.axis[2] = {columns, columns, 1, 1, 1, 0};
  along.axis[1] = {rows, rows, 1, 1, 1, 0};
  const Values nothing(problem.batch * problem.groups * rows * columns);
  const Plain rows_found = plain(along, grad, integers(plain(down, nothing, input, column).narrow), row);
  const Plain columns_found = plain(down, integers(rows_found.wide), input, column);
  return {rows_found.narrow, columns_found.wide, columns_found.weights, rows_found.weights, rows_found.totals};
}

namespace {

// A neighbour of a moved tap: its place in a plane, or -1 where it is outside; its weight, and the derivatives of that.
struct Corner {
  int64_t place;
  double weight, derivative[3];
};

std::vector<Corner> corners_of(const Axis* axis, int64_t axes, const double* at) {
  std::vector<Corner> corners;
  for (int64_t number = 0; number < 1 << axes; ++number) {
    Corner corner{0, 1, {1, 1, 1}};
    for (int64_t a = 0; a < axes; ++a) {
      const bool higher = number >> a & 1, away = at[a] < -1 || at[a] >= double(axis[a].wide);
      const double low = std::isnan(at[a]) || away ? -2 : std::floor(at[a]);
      const double fraction = away ? 0 : std::isnan(at[a]) ? at[a] : at[a] - low;
      const double side = higher ? fraction : 1 - fraction, place = low + higher;
      corner.weight *= side;
      for (int64_t b = 0; b < axes; ++b) corner.derivative[b] *= a != b ? side : higher ? 1 : -1;
      const bool outside = corner.place < 0 || place < 0 || place >= double(axis[a].wide);
      corner.place = outside ? -1 : corner.place * axis[a].wide + int64_t(place);
    }
    corners.push_back(corner);
  }
  return corners;
}

}  // namespace

PlainDeformable plain_deformable(const Problem& problem, int64_t axes, int64_t offset_groups, const Values& input,
                                 const Values& grad, const std::vector<double>& offset, const Values& mask,
                                 const Values& weights) {
  const Axis* axis = problem.axis + (3 - axes);
  const int64_t channels = problem.groups * problem.wide, outputs = problem.groups * problem.narrow;
  int64_t taps = 1, ins = 1, outs = 1;
  for (int64_t a = 0; a < axes; ++a) {
    taps *= axis[a].taps;
    ins *= axis[a].wide;
    outs *= axis[a].narrow;
  }
  PlainDeformable found{std::vector<double>(grad.size()), std::vector<double>(input.size()),
                        std::vector<double>(offset.size()), std::vector<double>(mask.size()),
                        std::vector<double>(weights.size())};
  for (int64_t n = 0; n < problem.batch; ++n)
    for (int64_t p = 0; p < outs; ++p)
      for (int64_t tap = 0; tap < taps; ++tap)
        for (int64_t q = 0; q < offset_groups; ++q) {
          const int64_t mask_at = ((n * offset_groups + q) * taps + tap) * outs + p;
          const auto offset_at = [&](int64_t a) {
            return (((n * offset_groups + q) * taps + tap) * axes + a) * outs + p;
          };
          double at[3];
          int64_t position = p, step = tap;
          for (int64_t a = axes - 1; a >= 0; --a) {
            at[a] = double(axis[a].stride * (position % axis[a].narrow) + axis[a].dilation * (step % axis[a].taps) -
                           axis[a].before) + offset[offset_at(a)];
            position /= axis[a].narrow;
            step /= axis[a].taps;
          }
          const std::vector<Corner> corners = corners_of(axis, axes, at);
          const double factor = mask.empty() ? 1 : mask[mask_at];
          for (int64_t c = q * (channels / offset_groups); c < (q + 1) * (channels / offset_groups); ++c) {
            const int64_t group = c / problem.wide;
            double sample = 0, along[3] = {0, 0, 0}, back = 0;
            for (const Corner& corner : corners) {
              const double value = corner.place < 0 ? 0 : input[(n * channels + c) * ins + corner.place];
              sample += corner.weight * value;
              for (int64_t a = 0; a < axes; ++a) along[a] += corner.derivative[a] * value;
            }
            for (int64_t o = group * problem.narrow; o < (group + 1) * problem.narrow; ++o) {
              const int64_t weight_at = (o * problem.wide + c % problem.wide) * taps + tap;
              const int64_t output_at = (n * outputs + o) * outs + p;
              found.output[output_at] += weights[weight_at] * factor * sample;
              found.weights[weight_at] += grad[output_at] * factor * sample;
              back += weights[weight_at] * double(grad[output_at]);
            }
            for (const Corner& corner : corners)
              if (corner.place >= 0)
                found.input[(n * channels + c) * ins + corner.place] += back * factor * corner.weight;
            for (int64_t a = 0; a < axes; ++a) found.offset[offset_at(a)] += back * factor * along[a];
            if (!mask.empty()) found.mask[mask_at] += back * sample;
          }
        }
  return found;
}

namespace {

double activated(Activation activation, double x) {
  const double cubic = std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x);
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return std::fmax(x, 0);
    case Activation::relu6: return std::fmin(std::fmax(x, 0), 6);
    case Activation::silu: return x / (1 + std::exp(-x));
    case Activation::gelu: return x * std::erfc(-x / std::sqrt(2.0)) / 2;
    case Activation::gelu_tanh: return x / (1 + std::exp(-2 * cubic));
    case Activation::hardswish: return x * std::fmin(std::fmax(x + 3, 0), 6) / 6;
  }
  return NAN;
}

double slope(Activation activation, double x) {
  const double share = activated(Activation::silu, x) / (x == 0 ? 1 : x);  // that of a sigmoid, but at 0
  const double steep = 2 * std::sqrt(2 / std::acos(-1.0)) * (1 + 3 * 0.044715 * x * x);
  const double density = std::exp(-x * x / 2) / std::sqrt(2 * std::acos(-1.0));
  const double tanh_share = x == 0 ? 0.5 : activated(Activation::gelu_tanh, x) / x;
  switch (activation) {
    case Activation::none: return 1;
    case Activation::relu: return x > 0;
    case Activation::relu6: return x > 0 && x < 6;
    case Activation::silu: return x == 0 ? 0.5 : share * (1 + x * (1 - share));
    case Activation::gelu: return std::erfc(-x / std::sqrt(2.0)) / 2 + x * density;
    case Activation::gelu_tanh: return tanh_share * (1 + x * (1 - tanh_share) * steep);
    case Activation::hardswish: return x <= -3 ? 0 : x >= 3 ? 1 : x / 3 + 0.5;
  }
  return NAN;
}

}  // namespace

std::vector<Near> plain_back(Activation activation, const Values& grad, const Values& kept) {
  constexpr double ROUNDING = 4e-6;
  std::vector<Near> found;
  for (size_t at = 0; at < grad.size(); ++at)
    found.push_back({grad[at] * slope(activation, kept[at]),
                     activation > Activation::relu6 ? ROUNDING * std::fmax(std::abs(grad[at] * kept[at]), 1) : 0});
  return found;
}

void plain_follow(std::vector<Near>& numbers, int64_t channels, int64_t positions, const Following& given) {
  constexpr double STEEPEST = 2, ROUNDING = 4e-6;  // of every activation; of their own computation
  for (size_t at = 0; at < numbers.size(); ++at) {
    Near& number = numbers[at];
    const int64_t channel = int64_t(at) / positions % channels;
    if (!given.bias.empty()) number.value += given.bias[channel];
    if (!given.scale.empty()) {
      number.value = number.value * given.scale[channel] + given.shift[channel];
      number.error *= std::abs(given.scale[channel]);
    }
    if (!given.addend.empty()) number.value += given.addend[at];
    const double before = number.value;
    number.value = activated(given.activation, before);
    if (given.activation > Activation::relu6)
      number.error = STEEPEST * number.error + ROUNDING * std::fmax(std::abs(before), 1);
  }
}

std::vector<Near> plain_pointwise(const std::vector<Near>& input, int64_t batch, int64_t inputs, int64_t outputs,
                                  int64_t positions, const Values& weights) {
  constexpr double ROUNDING = 1e-5;  // of sums that are not of whole numbers
  std::vector<Near> found(batch * outputs * positions);
  for (int64_t n = 0; n < batch; ++n)
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t i = 0; i < inputs; ++i) {
        const double weight = weights[o * inputs + i];
        const Near* from = input.data() + (n * inputs + i) * positions;
        Near* to = found.data() + (n * outputs + o) * positions;
        for (int64_t p = 0; p < positions; ++p) {
          to[p].value += weight * from[p].value;
          const double rounding = from[p].error ? ROUNDING * std::abs(from[p].value) : 0;
          to[p].error += std::abs(weight) * (from[p].error + rounding);
        }
      }
  return found;
}

std::vector<double> plain_pointwise_gradient(const Values& input, const Values& grad, int64_t batch, int64_t inputs,
                                             int64_t outputs, int64_t positions) {
  std::vector<double> found(outputs * inputs);
  for (int64_t n = 0; n < batch; ++n)
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t i = 0; i < inputs; ++i)
        for (int64_t p = 0; p < positions; ++p)
          found[o * inputs + i] +=
              double(grad[(n * outputs + o) * positions + p]) * input[(n * inputs + i) * positions + p];
  return found;
}

PlainDynamic plain_dynamic(const Problem& problem, const Values& input, const Values& grad, const Values& weights,
                           bool everywhere, bool softmax, bool renorm) {
  const Axis(&axis)[3] = problem.axis;
  const int64_t taps = taps_of(problem), ins = axis[0].wide * axis[1].wide * axis[2].wide;
  const int64_t outs = axis[0].narrow * axis[1].narrow * axis[2].narrow, each = everywhere ? 1 : outs;
  PlainDynamic found{std::vector<double>(grad.size()), std::vector<double>(input.size()),
                     std::vector<double>(weights.size())};
  std::vector<double> share(taps), of_share(taps);
  std::vector<int64_t> met(taps);  // in a plane, or -1
  for (int64_t pair = 0; pair < problem.batch * problem.groups; ++pair)
    for (int64_t p = 0; p < outs; ++p) {
      bool some = false;
      for (int64_t tap = 0; tap < taps; ++tap) {
        int64_t k = tap, position = p, step = 1;
        met[tap] = 0;
        for (int i = 2; i >= 0; --i) {
          const int64_t at = axis[i].stride * (position % axis[i].narrow) + axis[i].dilation * (k % axis[i].taps) -
                             axis[i].before;
          met[tap] = met[tap] < 0 || at < 0 || at >= axis[i].wide ? -1 : met[tap] + at * step;
          step *= axis[i].wide;
          k /= axis[i].taps;
          position /= axis[i].narrow;
        }
        some = some || met[tap] >= 0;
      }
      const auto number = [&](int64_t tap) { return (pair * taps + tap) * each + (everywhere ? 0 : p); };
      const auto counts = [&](int64_t tap) { return !renorm || !some || met[tap] >= 0; };
      double highest = -INFINITY, total = 0, mean = 0;
      for (int64_t tap = 0; tap < taps; ++tap)
        if (counts(tap)) highest = std::fmax(highest, weights[number(tap)]);
      for (int64_t tap = 0; tap < taps; ++tap) {
        share[tap] = !softmax ? weights[number(tap)] : counts(tap) ? std::exp(weights[number(tap)] - highest) : 0;
        total += share[tap];
        of_share[tap] = 0;
      }
      for (int64_t tap = 0; tap < taps; ++tap) {
        if (softmax) share[tap] /= total;
        for (int64_t c = pair * problem.wide; c < (pair + 1) * problem.wide; ++c) {
          if (met[tap] < 0) break;
          found.output[c * outs + p] += share[tap] * input[c * ins + met[tap]];
          found.input[c * ins + met[tap]] += share[tap] * grad[c * outs + p];
          of_share[tap] += double(grad[c * outs + p]) * input[c * ins + met[tap]];
        }
        mean += share[tap] * of_share[tap];
      }
      for (int64_t tap = 0; tap < taps; ++tap)
        found.weights[number(tap)] += softmax ? share[tap] * (of_share[tap] - mean) : of_share[tap];
    }
  return found;
}

}  // namespace omniconv
