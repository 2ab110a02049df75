/*
 * The rules of a script: which of them is about a call, and whether this is one of the calls it strikes.
 */
#include <string.h>

#include "control.h"

/* Counts a call that an armed rule is about, and says whether the rule strikes. A rule set anew counts from one. */
static int strikes(int token, unsigned index, uint32_t generation, uint32_t times, uint32_t every) {
  _Atomic uint64_t *seen = &control->states[token].rule_calls[index];
  uint64_t before = atomic_load(seen), after;
  do {
    if (before >> 32 > generation) return 0; /* the rule was set anew while we looked at the old one */
    after = (before >> 32) == generation ? before + 1 : (uint64_t)generation << 32 | 1;
  } while (!atomic_compare_exchange_weak(seen, &before, after));
  uint32_t calls = (uint32_t)after;
  return calls % every == 0 && (times == 0 || calls / every <= times);
}

struct rule *rule_that_strikes(int token, const char *function, enum rule_kind kind, uint32_t *generation) {
  for (unsigned i = 0; i < RULES; i += 1) {
    struct rule *rule = &control->scripts[token].rules[i];
    *generation = atomic_load(&rule->generation);
    if (*generation == 0 || atomic_load(&rule->kind) != kind || strcmp(rule->function, function) != 0) continue;
    uint32_t times = atomic_load(&rule->times), every = atomic_load(&rule->every);
    /* The script was at it while we read. */
    if (atomic_load(&rule->generation) != *generation || every == 0) continue;
    if (strikes(token, i, *generation, times, every)) return rule;
  }
  return NULL;
}
