// What this CPU offers, and the kernels chosen for it.
#pragma once

#include <string>
#include <vector>

#include "cpu/kernel_table.h"

namespace salience::cpu {

struct InstructionSet {
  const char* name;
  bool built;           // kernels of its own were compiled in
  bool offered;         // the CPU has it and the operating system allows it
  std::string why_not;  // empty where it is offered
};

// Every instruction set the package knows, lowest first.
const std::vector<InstructionSet>& instruction_sets();

// The set in use: the highest that is offered, or what SALIENCE_ISA names. Throws
// std::invalid_argument where SALIENCE_ISA names none, or one that is not offered here.
const InstructionSet& chosen_instruction_set();

// Switches to another set, for benchmarks and tests that compare them in one process. No call may be under
// way; an Index packed in another encoding is refused until the set changes back.
void use_instruction_set(const std::string& name);

// Kernels of the set in use. A set without kernels of its own is served by the next lower one.
const KernelTable& kernels();
const char* kernels_name();

}  // namespace salience::cpu
