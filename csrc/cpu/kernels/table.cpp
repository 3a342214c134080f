// Compiled once per instruction set, with SALIENCE_TABLE naming the one symbol it exports.
#include "cpu/kernels/als.h"
#include "cpu/kernels/canonical.h"
#include "cpu/kernels/gramian.h"
#include "cpu/kernels/screen.h"
#include "cpu/kernels/select.h"

namespace {

constexpr salience::cpu::KernelTable kTable = {
    kLanes,  screen,          canonical, squared_norms, select_float, select_double,
    gramian, kGramianPadding, rotate,    als_solve,     als_loss,
};

}  // namespace

extern "C" const salience::cpu::KernelTable* SALIENCE_TABLE() { return &kTable; }
