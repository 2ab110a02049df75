/*
 * The control file: what tests script and what the module counts, in one file that every process maps.
 *
 * The script half is written by the tests alone (control-file.ts, with plain writes of four octets), the other half by the
 * modules alone. So no field has writers on both sides, and the side without atomics never has to change a value that
 * another process changes at the same time. The layout is the same number of octets everywhere; control-file.ts repeats it.
 */
#ifndef FAULTY_MODULE_CONTROL_H
#define FAULTY_MODULE_CONTROL_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "pkcs11/pkcs11.h"

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "control-file.ts reads and writes little-endian numbers"
#endif

#define CONTROL_MAGIC "SIGFLT01"

enum {
  MODULE = 0, /* the entry for calls that concern no token: C_Initialize, C_GetSlotList */
  NO_TOKEN = -1,
  TOKENS = 9, /* the module and eight tokens */
  RULES = 16,
  PROCESSES = 32,
  WAITERS = 64,
};

enum rule_kind { RULE_FAIL = 1, RULE_HANG = 2 };

struct rule {
  _Atomic uint32_t generation; /* 0 while it is not armed; written last, so that the rest belongs to it */
  _Atomic uint32_t kind;
  _Atomic uint32_t ckr;
  _Atomic uint32_t times; /* 0: until it is cleared */
  _Atomic uint32_t every; /* 1: each call, 3: each third */
  uint32_t reserved;
  char function[40];
};

struct token_script {
  char label[32]; /* padded with blanks, as in CK_TOKEN_INFO */
  _Atomic uint32_t sign_latency_micros;
  _Atomic uint32_t sign_parallel_max; /* 0: no limit; here and below */
  _Atomic uint32_t sessions_max;
  _Atomic uint32_t sessions_told; /* in C_GetTokenInfo, whatever sessions_max is; 0: nothing */
  _Atomic uint32_t kill_generation;
  _Atomic uint32_t kill_keeps_login;
  _Atomic uint32_t logout_generation;
  _Atomic uint32_t away;
  _Atomic uint32_t away_generation;
  _Atomic uint32_t sessions_lost_before; /* sessions and logins of an earlier away_generation are dead */
  _Atomic uint32_t token_lost_before;    /* so is the token, for a process that was initialised in an earlier one */
  _Atomic uint32_t rules_armed;
  _Atomic uint32_t most_generation;
  _Atomic uint32_t writing_max; /* read-write sessions of one process; told as well */
  uint32_t reserved[2];
  struct rule rules[RULES];
};

enum waiter_state { WAITING = 1, GRANTED = 2 };

/* A thread that waits for its turn to sign. In use while `process` (an index, plus one) is not 0. */
struct waiter {
  _Atomic uint32_t state;
  uint32_t process;
  uint64_t ticket;
};

struct token_state {
  _Atomic uint64_t login_calls;
  _Atomic uint64_t logins_refused;
  _Atomic uint64_t sign_calls;
  _Atomic uint64_t signatures;
  _Atomic uint64_t sign_nanoseconds;
  uint64_t sessions_most; /* these five under the lock */
  uint64_t running_most;
  uint64_t most_generation;
  uint64_t sessions_of_one_most; /* of any one process: an application, in the words of the standard */
  uint64_t writing_of_one_most;
  _Atomic uint64_t rule_calls[RULES]; /* generation of the rule << 32 | calls that met it */
  struct waiter waiters[WAITERS];
};

struct process_token {
  uint32_t sessions;
  _Atomic uint32_t kill_generation; /* the one that `sessions` has followed */
  uint32_t running;
  _Atomic uint32_t hanging;
  uint32_t writing; /* of `sessions`, those that are read-write */
};

/* What a process holds now is kept apart for each process, because SIGKILL leaves it behind. */
struct process {
  _Atomic uint32_t pid;
  uint32_t initialized;
  struct process_token tokens[TOKENS];
};

struct control {
  char magic[8];
  _Atomic uint32_t tokens_named;
  _Atomic uint32_t lock; /* the process that is inside, or 0 */
  _Atomic uint64_t initialize_calls;
  _Atomic uint64_t finalize_calls;
  uint64_t next_ticket;
  uint64_t reserved[3];
  struct token_script scripts[TOKENS];
  struct token_state states[TOKENS];
  struct process processes[PROCESSES];
};

_Static_assert(sizeof(struct rule) == 64, "control-file.ts");
_Static_assert(sizeof(struct token_script) == 1120, "control-file.ts");
_Static_assert(sizeof(struct token_state) == 1232, "control-file.ts");
_Static_assert(sizeof(struct process) == 188, "control-file.ts");
_Static_assert(offsetof(struct control, scripts) == 64, "control-file.ts");
_Static_assert(offsetof(struct control, states) == 10144, "control-file.ts");
_Static_assert(offsetof(struct control, processes) == 21232, "control-file.ts");
_Static_assert(sizeof(struct control) == 27248, "control-file.ts");

/* The mapped file; NULL until the first C_Initialize. */
extern struct control *control;
/* The entry of this process. Only valid while `control` is mapped. */
extern struct process *self;

/* Maps the file of FAULTY_MODULE_CONTROL and enters this process. False, with a line on stderr, when it cannot. */
int control_attach(void);

void control_lock(void);
void control_unlock(void);

/*
 * CKR_SESSION_COUNT when the table of the token is full, in all processes together, or that of read-write sessions, in this one;
 * otherwise one more is open.
 */
CK_RV sessions_take(int token, int writing);
void sessions_give(int token, int writing);

/* Waits for a turn to sign, first come, first served, among the threads of all processes. */
void signing_begin(int token);
void signing_end(int token);

/*
 * The first rule of this kind that strikes this call, or NULL. The script may change it at any time: what struck is the
 * rule of this generation.
 */
struct rule *rule_that_strikes(int token, const char *function, enum rule_kind kind, uint32_t *generation);

void sleep_micros(uint64_t micros);

#endif
