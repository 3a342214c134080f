# salience_instruction_set(<name> "<flags>" [<definition>...]): compiles the kernels once more, as a library
# of its own. Skipped where the compiler does not know the flags.
include(CheckCXXCompilerFlag)
set(SALIENCE_KERNEL_OBJECTS "")

# GCC 12 finds its own AVX-512 headers wanting (GCC bug 105593). On the source, to come after -Wall.
set_source_files_properties(csrc/cpu/kernels/table.cpp PROPERTIES COMPILE_OPTIONS
  "$<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized;-Wno-maybe-uninitialized>")

function(salience_instruction_set name flags)
  if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    string(REPLACE ";" " " spaced "${flags}")
    check_cxx_compiler_flag("${spaced}" SALIENCE_COMPILES_${name})
    if(NOT SALIENCE_COMPILES_${name})
      return()
    endif()
  elseif(name STREQUAL "baseline")
    set(flags "")
  else()
    return()
  endif()
  set(target kernels_${name})
  add_library(${target} OBJECT csrc/cpu/kernels/table.cpp)
  target_link_libraries(${target} PRIVATE salience_options)
  target_compile_options(${target} PRIVATE ${flags} -fno-exceptions -fno-rtti)
  target_compile_definitions(${target} PRIVATE SALIENCE_TABLE=salience_kernels_${name} ${ARGN})
  # Objects built with different flags must share no function: the linker would keep either one.
  set(stamp ${CMAKE_CURRENT_BINARY_DIR}/${target}.checked)
  add_custom_command(OUTPUT ${stamp}
    COMMAND ${CMAKE_COMMAND} -DNM=${CMAKE_NM} -DOBJECT=$<TARGET_OBJECTS:${target}> -DSTAMP=${stamp}
      -DSYMBOL=salience_kernels_${name} -P ${PROJECT_SOURCE_DIR}/csrc/cmake/check_symbols.cmake
    DEPENDS $<TARGET_OBJECTS:${target}> ${PROJECT_SOURCE_DIR}/csrc/cmake/check_symbols.cmake)
  set(SALIENCE_KERNEL_OBJECTS ${SALIENCE_KERNEL_OBJECTS} $<TARGET_OBJECTS:${target}> ${stamp} PARENT_SCOPE)
endfunction()
