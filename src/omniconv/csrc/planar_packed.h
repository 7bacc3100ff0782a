// SPDX-License-Identifier: Apache-2.0
// A convolution, or the transpose of one, from packed rows: lanes are neighbouring positions of the last axis.
//
// The rows that a band of outputs meets are packed in float32 with zeros around them, so that tiles need not know of
// borders, and all tiles of the band are summed from there. Long single rows are read where they stand, apart from
// their ends. How the work is cut depends on the problem alone.
#pragma once

#include "planar_comb.h"
#include "tasks.h"

namespace omniconv {
namespace {
namespace planar {

constexpr int64_t PLANE_BYTES = 32 << 10;   // packed rows of a band of one channel
constexpr int64_t GROUP_BYTES = 128 << 10;  // of several, which several outputs share
constexpr int64_t SPACE_BYTES = 512 << 10;  // of the depths of a volume
constexpr int64_t MOST_BYTES = 64 << 20;    // of a band that cannot be smaller
constexpr int64_t LEAST_TASKS = 32;
constexpr int64_t LEAST_TASK_WORK = 16000;  // vector multiply-adds
constexpr int64_t LEAST_DIRECT = 70;  // vectors of a row that is read where it stands
constexpr int64_t MOST_VARIANTS = 64;

enum class Tiling { ROWS, COMB, ROW, CHANNELS };

// How one problem is cut into bands of rows and chunks of columns.
template <Way WAY>
struct Cut {
  const Problem& problem;
  Columns<WAY> columns;
  Rows<WAY> rows;
  int64_t outputs, variants;  // channels of a group
  Tiling tiling;
  int64_t lines, most_taps;           // of a tile of the program
  int64_t chunk, chunks;              // columns
  int64_t depth_band, row_band;       // rows of outputs
  int64_t depth_bands, row_bands;
  int64_t reach, pitch;               // floats that tiles read behind their last, and floats of a packed row
  typename Program<WAY>::Limits limits;

  explicit Cut(const Problem& problem)
      : problem(problem), columns(problem.axis[2]), rows(problem.axis[1]) {
    outputs = WAY == Way::GATHER ? problem.narrow : problem.wide;
    variants = WAY == Way::GATHER ? problem.wide : problem.narrow;
    const int64_t height = rows.outputs(), depth = outputs_of<WAY>(problem.axis[0]);
    const int64_t together = ceil_div(height, rows.apart);
    tiling = Tiling::ROWS;
    if (together < 3 || rows.taps_of(0) == 1)
      tiling = outputs > 1 ? Tiling::CHANNELS : columns.dense ? Tiling::COMB : Tiling::ROW;
    const int64_t across = ceil_div(columns.outputs, columns.phases);
    const int64_t most_across = tiling == Tiling::ROWS ? 4 * MOST_WIDE * V : 4096;
    const int64_t cuts = ceil_div(across, most_across);
    chunk = whole_vectors(ceil_div(across, cuts)) * columns.phases;
    chunks = ceil_div(columns.outputs, chunk);
    lines = tiling == Tiling::ROWS ? lines_of_tile(chunk / columns.phases / V, together) : 1;
    most_taps = tiling == Tiling::ROWS ? MOST_STRAND : 1;
    reach = columns.reach + (tiling == Tiling::COMB ? 2 * V : 0);
    pitch = whole_vectors(chunk / columns.phases + reach);
    depth_band = depth;
    row_band = height;
    const int64_t budget = variants > 1 ? GROUP_BYTES : PLANE_BYTES;
    while (depth_band > 1 && shelf_bytes() > SPACE_BYTES) depth_band = (depth_band + 1) / 2;
    const int64_t least_band = least(lines * rows.apart * 2, height);
    while (row_band > least_band && shelf_bytes() > (depth > 1 ? SPACE_BYTES : budget)) narrow_rows(least_band);
    // Enough tasks for several threads, where there is work for them.
    while (row_band > least_band && tasks() < LEAST_TASKS && work() > 2 * LEAST_TASK_WORK) narrow_rows(least_band);
    while (depth_band > 1 && tasks() < LEAST_TASKS && work() > 2 * LEAST_TASK_WORK) depth_band = (depth_band + 1) / 2;
    depth_bands = ceil_div(depth, depth_band);
    row_bands = ceil_div(height, row_band);
    limits = limits_of();
  }

  // Halves the bands, into whole tiles.
  void narrow_rows(int64_t least_band) {
    const int64_t unit = lines * rows.apart;
    const int64_t half = most(ceil_div(ceil_div(row_band, 2), unit) * unit, least_band);
    row_band = half < row_band ? half : least_band;
  }

  typename Program<WAY>::Limits limits_of() const {
    return Program<WAY>::limits(rows, problem.axis[0], depth_band, row_band, lines, most_taps);
  }
  int64_t shelf_floats() const {
    const auto some = limits_of();
    return some.rows * some.depths * variants * columns.dealt * pitch;
  }
  int64_t shelf_bytes() const { return shelf_floats() * int64_t(sizeof(float)); }
  int64_t tasks() const {
    return problem.groups * most(problem.batch, 1) * chunks * ceil_div(rows.outputs(), row_band) *
           ceil_div(outputs_of<WAY>(problem.axis[0]), depth_band);
  }
  // Vector multiply-adds of a task, and about as much again to pack and store.
  int64_t work() const {
    const int64_t vectors = depth_band * row_band * (chunk / V);
    const int64_t rows_met = period_of<WAY>(problem.axis[0]) * period_of<WAY>(problem.axis[1]);
    const int64_t met = ceil_div(taps_of(problem) * variants, rows_met * columns.phases);
    return vectors * outputs * (met + 4);
  }
};

template <class T, Way WAY>
struct PackedSums : SumsCall<T> {
  using Call = SumsCall<T>;
  using Call::problem, Call::input, Call::output, Call::weights, Call::bias, Call::host;

  Cut<WAY> cut;
  Split split;
  int64_t block;           // groups of a task
  int64_t channel_floats;  // weights of one channel of outputs

  explicit PackedSums(const Call& call) : Call(call), cut(problem) {
    const int64_t bands = cut.depth_bands * cut.row_bands;
    block = most(least(ceil_div(LEAST_TASK_WORK, cut.work()), cut.tasks() / LEAST_TASKS), 1);
    const int64_t blocks = ceil_div(problem.groups, block);
    const int64_t threads = threads_for(host, cut.work() * cut.tasks());
    // What a band needs to know is found once if bands vary slowest: they stand for the split's blocks, the blocks of
    // groups for its samples, and the samples for its rows.
    split = Split::of_units(threads, bands, problem.batch, false, blocks, cut.chunks);
    channel_floats = taps_of(problem) * cut.variants;
  }

  bool straight() const { return sizeof(T) == sizeof(float) && cut.columns.phases == 1; }
  int64_t phase_pitch() const { return cut.chunk / cut.columns.phases; }
  int64_t lines_at_once() const { return cut.tiling == Tiling::CHANNELS ? CHANNELS : cut.lines; }

  int64_t scratch_bytes() const {
    return Program<WAY>::bytes(cut.limits) + whole_lines(cut.shelf_floats() * 4) +
           whole_lines(most_pieces() * int64_t(sizeof(Piece))) +
           whole_lines(block * cut.outputs * channel_floats * 4) + whole_lines(channel_floats * 4) +
           whole_lines(cut.outputs * 4) + whole_lines(lines_at_once() * cut.chunk * 4) +
           2 * whole_lines(problem.axis[2].taps * 8) + whole_lines((cut.columns.phases + 1) * 8);
  }

  void run() {
    run_tasks(host, split, [this](Dealer& dealer) { Worker(*this).work(dealer); });
  }

  // Vectors of a chunk that are read from packed rows, or where they stand, and the pieces along them.
  struct Part {
    Plan plan;
    bool clear;              // whether zeros stand around what is packed
    int64_t place;           // in a packed row
    int64_t first, width;    // columns of inputs
    int64_t begin, columns;  // of outputs, from the chunk's first
    int64_t pieces, pieces_end;
  };
  int64_t most_pieces() const { return cut.columns.phases * (phase_pitch() / V / 2 + 6); }
  int64_t column_floats() const { return channel_floats / problem.axis[2].taps; }

  // What one thread has at hand.
  struct Worker {
    const PackedSums& whole;
    const Cut<WAY>& cut;
    const View& input;
    const View& output;
    Program<WAY> program;
    float* shelf;
    float* packed_weights;
    int32_t* places;  // of the weights of one channel, in packed order
    float* starts;    // the bias of each channel of a group
    float* sums;      // of lines whose outputs are not written where they belong
    int64_t* offsets;
    int64_t* taps;
    int64_t* phase_starts;
    Piece* pieces;
    Part parts[3];
    int64_t part_count = 0, piece_count = 0;
    int64_t held_band = -1, held_block = -1, held_chunk = -1;

    explicit Worker(const PackedSums& whole)
        : whole(whole),
          cut(whole.cut),
          input(whole.input),
          output(whole.output),
          program(cut.problem, cut.rows, cut.lines, cut.most_taps, cut.variants) {
      Arena arena{static_cast<char*>(whole.host.scratch(whole.scratch_bytes()))};
      program.take(arena, cut.limits);
      shelf = arena.take<float>(cut.shelf_floats());
      packed_weights = arena.take<float>(whole.block * cut.outputs * whole.channel_floats);
      places = arena.take<int32_t>(whole.channel_floats);
      starts = arena.take<float>(cut.outputs);
      sums = arena.take<float>(whole.lines_at_once() * cut.chunk);
      offsets = arena.take<int64_t>(cut.problem.axis[2].taps);
      taps = arena.take<int64_t>(cut.problem.axis[2].taps);
      phase_starts = arena.take<int64_t>(cut.columns.phases + 1);
      pieces = arena.take<Piece>(whole.most_pieces());
      cut.columns.list(offsets, taps, phase_starts, cut.pitch);
      list_places();
      std::memset(starts, 0, cut.outputs * sizeof(float));
    }

    // By phase, then tap of the depths, channel met, class of the rows' taps, tap of the columns, tap of the class.
    void list_places() {
      const Axis* axis = cut.problem.axis;
      const int64_t variant_step = WAY == Way::GATHER ? whole.weights.wide : whole.weights.narrow;
      int32_t* to = places;
      for (int64_t phase = 0; phase < cut.columns.phases; ++phase)
        for (int64_t outer = 0; outer < axis[0].taps; ++outer)
          for (int64_t variant = 0; variant < cut.variants; ++variant)
            for (int64_t number = 0; number < cut.rows.classes; ++number)
              for (int64_t k = phase_starts[phase]; k < phase_starts[phase + 1]; ++k)
                for (int64_t m = 0; m < cut.rows.taps_of(number); ++m) {
                  const int64_t row = outer * axis[1].taps + cut.rows.tap_at(number, m);
                  *to++ = int32_t(variant * variant_step + row * axis[2].taps + taps[k]);
                }
    }

    template <class U>
    void pack_channel(float* to, const U* from) const {
      const int64_t count = phase_starts[cut.columns.phases] * cut.problem.axis[0].taps * cut.problem.axis[1].taps *
                            cut.variants;
      for (int64_t i = 0; i < count; ++i) to[i] = widen(from[places[i]]);
    }

    __attribute__((noinline)) void pack_weights(int64_t block) {
      const Weights& weights = whole.weights;
      float* to = packed_weights;
      const int64_t first = block * whole.block, end = least(first + whole.block, cut.problem.groups);
      for (int64_t group = first; group < end; ++group) {
        for (int64_t channel = 0; channel < cut.outputs; ++channel, to += whole.channel_floats) {
          const int64_t at = weights.head(group) * weights.group +
                             channel * (WAY == Way::GATHER ? weights.narrow : weights.wide);
          if (weights.type == Type::float32) {
            pack_channel(to, static_cast<const float*>(weights.data) + at);
          } else {
            pack_channel(to, static_cast<const bf16*>(weights.data) + at);
          }
        }
      }
    }

    void work(Dealer& dealer) {
      Task task;
      while (dealer.deal(task)) {
        const int64_t band = task.block, block = task.sample, sample = task.first_row;
        if (band != held_band || task.chunk != held_chunk) {
          if (band != held_band) begin_band(band);
          if (task.chunk != held_chunk) begin_chunk(task.chunk);
          finish_plans();
        }
        if (block != held_block) pack_weights(block);
        held_block = block;
        const int64_t first = block * whole.block, end = least(first + whole.block, cut.problem.groups);
        for (int64_t group = first; group < end; ++group) {
          if (whole.bias)
            for (int64_t i = 0; i < cut.outputs; ++i) starts[i] = widen(whole.bias[group * cut.outputs + i]);
          sum_group(sample, task.chunk, group, packed_weights + (group - first) * cut.outputs * whole.channel_floats);
        }
      }
    }

    __attribute__((noinline)) void begin_band(int64_t band) {
      held_band = band;
      const int64_t depth = band / cut.row_bands * cut.depth_band, row = band % cut.row_bands * cut.row_band;
      program.build(depth, least(depth + cut.depth_band, outputs_of<WAY>(cut.problem.axis[0])), row,
                    least(row + cut.row_band, cut.rows.outputs()), cut.columns.dealt * cut.pitch, input, output);
      const Shelf& at = program.shelf;
      for (int64_t variant = 0; variant < cut.variants; ++variant)
        for (int64_t depth = 0; depth < at.depths; ++depth)
          for (int64_t row = 0; row < at.rows; ++row)
            if (!program.met_rows[row])
              std::memset(shelf + variant * at.variant + depth * at.depth + row * at.row, 0, at.row * sizeof(float));
    }

    // Long single rows are read where they stand as far as their windows lie inside.
    __attribute__((noinline)) void begin_chunk(int64_t chunk) {
      held_chunk = chunk;
      const int64_t begin = chunk * cut.chunk, count = least(cut.chunk, cut.columns.outputs - begin);
      const int64_t vectors = ceil_div(ceil_div(count, cut.columns.phases), V), lowest = cut.columns.input_at(begin);
      int64_t direct = 0, direct_end = 0;
      if (sizeof(T) == sizeof(float) && cut.tiling != Tiling::ROWS && cut.columns.step() == 1) {
        direct = lowest < 0 ? ceil_div(-lowest, V) : 0;
        direct_end = least(floor_div(cut.columns.inside() - lowest - cut.reach, V), vectors);
        if (direct_end - direct < LEAST_DIRECT) direct = direct_end = vectors;
      } else {
        direct = direct_end = vectors;
      }
      part_count = 0;
      piece_count = 0;
      add_part(0, direct, false, lowest, count);
      add_part(direct, direct_end, true, lowest, count);
      add_part(direct_end, vectors, false, lowest, count);
    }

    void add_part(int64_t begin, int64_t end, bool direct, int64_t lowest, int64_t columns) {
      if (begin >= end) return;
      const int64_t phases = cut.columns.phases;
      Part& part = parts[part_count++];
      part.plan.direct = direct;
      part.place = begin * V;
      part.first = lowest + cut.columns.step() * begin * V;
      part.width = whole_vectors((end - begin) * V + cut.reach);
      part.begin = begin * V * phases;
      part.columns = least(columns, end * V * phases) - part.begin;
      part.pieces = piece_count;
      for (int64_t phase = 0; phase < least(phases, part.columns); ++phase)
        add_pieces(phase, ceil_div(part.columns - phase, phases));
      part.pieces_end = piece_count;
    }

    void add_pieces(int64_t phase, int64_t count) {
      const int64_t vectors = ceil_div(count, V);
      Piece piece;
      piece.offsets = offsets + phase_starts[phase];
      piece.taps = phase_starts[phase + 1] - phase_starts[phase];
      piece.weights = phase_starts[phase] * whole.column_floats();
      piece.weight_variant = cut.problem.axis[1].taps * piece.taps;
      const Comb comb = cut.tiling == Tiling::COMB ? comb_of(piece.taps) : Comb{};
      const int64_t wide = cut.tiling == Tiling::ROW ? MOST_LONG : MOST_WIDE;
      const int64_t tiles = cut.tiling == Tiling::COMB ? 1 : ceil_div(vectors, wide);
      piece.apart = comb.apart;
      for (int64_t i = 0, done = 0; i < tiles; ++i, done += piece.vectors) {
        piece.vectors = ceil_div(vectors - done, tiles - i);
        piece.run = cut.tiling == Tiling::COMB ? comb_row_of(comb.parts) : tile_function(piece.vectors);
        piece.begin = done * V;
        piece.last = least(count - (done + piece.vectors - 1) * V, V);
        piece.sums = phase * whole.phase_pitch() + piece.begin;
        pieces[piece_count++] = piece;
      }
    }

    // What depends on the band and on the chunk.
    void finish_plans() {
      for (int64_t i = 0; i < part_count; ++i) {
        Plan& plan = parts[i].plan;
        plan.variants = cut.variants;
        plan.input_variant = plan.direct ? input.channel : program.shelf.variant;
        plan.hop = program.shelf.row * cut.rows.hop;
        plan.line_weight = whole.channel_floats;
        plan.line = whole.straight() ? apart() : cut.chunk;
        parts[i].clear = false;
      }
    }

    // Elements from one line of a tile to the next.
    int64_t apart() const {
      return cut.tiling == Tiling::CHANNELS ? output.channel : output.axis[1] * cut.rows.apart;
    }

    __attribute__((noinline)) void sum_group(int64_t sample, int64_t chunk, int64_t group, const float* weights) {
      const T* from = static_cast<const T*>(input.data) + sample * input.batch +
                      group * cut.variants * input.channel;
      T* to = static_cast<T*>(output.data) + sample * output.batch + group * cut.outputs * output.channel +
              chunk * cut.chunk;
      for (int64_t i = 0; i < part_count; ++i) {
        Part& part = parts[i];
        if (!part.plan.direct) pack(from, part);
        const float* base = part.plan.direct ? reinterpret_cast<const float*>(from) + part.first : shelf + part.place;
        if (cut.tiling == Tiling::CHANNELS) {
          sum_channels(base, to + part.begin, weights, part);
        } else {
          sum_tiles(base, to + part.begin, weights, part);
        }
      }
    }

    void sum_tiles(const float* base, T* to, const float* weights, const Part& part) const {
      for (const Tile *tile = program.tiles, *end = tile + program.tile_count; tile < end; ++tile)
        for (int64_t channel = 0; channel < cut.outputs; ++channel)
          sum_tile(*tile, base, to + channel * output.channel + tile->output, weights + channel * whole.channel_floats,
                   starts + channel, part);
    }

    void sum_channels(const float* base, T* to, const float* weights, const Part& part) const {
      for (const Tile *tile = program.tiles, *end = tile + program.tile_count; tile < end; ++tile)
        for (int64_t channel = 0; channel < cut.outputs; channel += CHANNELS) {
          Tile some = *tile;
          some.lines = least(CHANNELS, cut.outputs - channel);
          sum_tile(some, base, to + channel * output.channel + tile->output, weights + channel * whole.channel_floats,
                   starts + channel, part);
        }
    }

    OMNICONV_INLINE void sum_tile(const Tile& tile, const float* base, T* out, const float* weights, const float* start,
                                  const Part& part) const {
      const bool straight = whole.straight();
      float* own = straight ? reinterpret_cast<float*>(out) : sums;
      for (const Piece *piece = pieces + part.pieces, *end = pieces + part.pieces_end; piece < end; ++piece)
        piece->run(part.plan, tile, *piece, base + piece->begin, weights + piece->weights, start, own + piece->sums);
      if (straight) return;
      for (int64_t line = 0; line < tile.lines; ++line) {
        T* to = out + line * apart();
        const float* from = sums + line * cut.chunk;
        if (cut.columns.phases == 1) {
          unpack_neighbours(to, from, part.columns);
        } else {
          unpack_pairs(to, from, from + whole.phase_pitch(), part.columns);
        }
      }
    }

    TileFunction tile_function(int64_t vectors) const {
      if (cut.tiling == Tiling::ROW) return long_tile(vectors);
      if (cut.tiling == Tiling::CHANNELS) return channel_tile(vectors);
      return row_tile(cut.lines, vectors);
    }

    __attribute__((noinline)) void pack(const T* from, Part& part) {
      const Shelf& at = program.shelf;
      const Neighbours neighbours(part.first, cut.columns.inside(), part.width);
      for (int64_t variant = 0; variant < cut.variants; ++variant)
        for (int64_t depth = 0; depth < at.depths; ++depth) {
          if (!program.met_depths[depth]) continue;
          const T* own = from + variant * input.channel + (at.lowest_depth + depth) * input.axis[0] +
                         at.lowest_row * input.axis[1];
          float* to = shelf + variant * at.variant + depth * at.depth + part.place;
          for (int64_t row = 0, end; row < at.rows; row = end) {
            for (end = row + 1; end < at.rows && program.met_rows[end] == program.met_rows[row];) ++end;
            if (program.met_rows[row])
              pack_rows(to + row * at.row, own + row * input.axis[1], end - row, neighbours, part);
          }
        }
      part.clear = true;
    }

    void pack_rows(float* to, const T* from, int64_t rows, const Neighbours& neighbours, const Part& part) {
      const int64_t pitch = program.shelf.row, line = input.axis[1];
      if (cut.columns.step() == 1) {
        for (int64_t row = 0; !part.clear && row < rows; ++row) neighbours.clear(to + row * pitch);
        neighbours.pack(to, pitch, from, line, rows);
        return;
      }
      for (int64_t row = 0; row < rows; ++row, to += pitch, from += line)
        pack_pairs(to, cut.columns.dealt > 1 ? to + cut.pitch : nullptr, from, part.first, cut.columns.inside(),
                   part.width);
    }
  };
};

}  // namespace planar

}  // namespace
}  // namespace omniconv
