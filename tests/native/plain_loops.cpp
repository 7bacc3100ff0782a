// SPDX-License-Identifier: Apache-2.0
#include "plain_loops.h"

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

}  // namespace omniconv
