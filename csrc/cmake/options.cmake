# Flags of every target. No -ffast-math: the contracts say what each operation rounds.
add_library(salience_options INTERFACE)
target_include_directories(salience_options INTERFACE ${PROJECT_SOURCE_DIR}/csrc)
target_compile_options(salience_options INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wshadow -ffp-contract=off -fno-math-errno>
  $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${SALIENCE_WERROR}>>:-Werror>)
if(SALIENCE_SANITIZE)
  target_compile_options(salience_options INTERFACE -fsanitize=${SALIENCE_SANITIZE} -fno-omit-frame-pointer -g)
  target_link_options(salience_options INTERFACE -fsanitize=${SALIENCE_SANITIZE})
endif()
