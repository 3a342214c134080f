// Compiled once per instruction set, with SALIENCE_TABLE naming the one symbol it exports.
#include "cpu/kernels/als.h"
#include "cpu/kernels/attention.h"
#include "cpu/kernels/canonical.h"
#include "cpu/kernels/count.h"
#include "cpu/kernels/encode.h"
#include "cpu/kernels/gramian.h"
#include "cpu/kernels/limits.h"
#include "cpu/kernels/screen.h"
#include "cpu/kernels/select.h"
#include "cpu/kernels/unit.h"
#if defined(SALIENCE_TILES)
#include "cpu/kernels/split.h"
#include "cpu/kernels/tiles.h"
#endif

namespace {

int64_t screen(const ScreenArguments& a) {
  if (a.queries <= kLanes) return a.terms != nullptr ? screen_panel<true, 1>(a) : screen_panel<false, 1>(a);
  return a.terms != nullptr ? screen_panel<true, 2>(a) : screen_panel<false, 2>(a);
}

int64_t sift(const ScreenArguments& a) {
  if (a.queries <= kLanes) return a.terms != nullptr ? sift_panel<true, 1>(a) : sift_panel<false, 1>(a);
  return a.terms != nullptr ? sift_panel<true, 2>(a) : sift_panel<false, 2>(a);
}

constexpr salience::cpu::KernelTable kTable = {
    kLanes,
    kEncoding,
    kTileRows,
    kByteColumns,
    encode,
    encode_fixed,
    encode_bytes,
    centred_squares,
    largest_squares,
    widen_half,
    widen_bfloat,
    enter_scan,
    leave_scan,
    screen,
    sift,
    screen_few,
    screen_bytes,
    bare_products,
    bare_read,
    canonical,
    squared_norms,
    unit_rows,
    unit_products,
    attend,
    select_float,
    select_double,
    sort_keys,
    kMostSorted,
    count_below_float,
    count_below_double,
    gramian,
    kGramianPadding,
    rotate,
    turn,
    turning_memory,
    als_solve,
    als_solve_long,
    als_prepare,
    als_apply,
    als_loss,
};

}  // namespace

extern "C" const salience::cpu::KernelTable* SALIENCE_TABLE() { return &kTable; }
