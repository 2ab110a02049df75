/*
 * The sessions of this process: which slot each is on, whether the script has killed it, and so whether a call may pass.
 *
 * Session handles are those of the real module, so stale ones behave as they do there. A killed session is closed by the
 * next call on its token; one that a thread is in just now is closed when that thread comes out, because a session that is
 * closed under a running C_Sign takes SoftHSM down.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "calls.h"

struct session {
  struct session *next;
  CK_SESSION_HANDLE handle;
  CK_SLOT_ID slot;
  int token; /* the entry that counts it, or NO_TOKEN */
  uint32_t kill_generation;
  uint32_t away_generation;
  unsigned epoch; /* number of the C_Initialize it belongs to, from 1; 0 when the real session is gone */
  unsigned busy;  /* threads that are in it */
  int dead;
  int writing; /* read-write */
};

/* What this process knows of a token. */
struct local_token {
  uint32_t kill_generation; /* the kills that were carried out here */
  uint32_t logout_generation;
  uint32_t away_at_start;
  uint32_t away_at_login;
  unsigned sessions;
  int logged_in;
  /* A session of our own that keeps the login when all of the application's are killed, or 0. */
  CK_SESSION_HANDLE anchor;
};

struct labelled_slot {
  CK_SLOT_ID slot;
  int token;
  uint32_t tokens_named; /* how many there were to choose from */
};

enum { BUCKETS = 256, LABELLED = 64 };

CK_FUNCTION_LIST_PTR real;

static pthread_mutex_t table = PTHREAD_MUTEX_INITIALIZER;
/* All under `table`, which is taken before the lock of the control file. */
static struct session *buckets[BUCKETS];
static struct local_token locals[TOKENS];
static struct labelled_slot labelled[LABELLED];
static unsigned labelled_count;
static unsigned epoch;

static uint32_t script_of(int token, size_t field) {
  return atomic_load((_Atomic uint32_t *)((char *)&control->scripts[token] + field));
}
#define SCRIPT(token, field) script_of(token, offsetof(struct token_script, field))

static size_t label_length(const char *label) {
  size_t length = sizeof((struct token_script *)0)->label;
  while (length > 0 && (label[length - 1] == ' ' || label[length - 1] == '\0')) length -= 1;
  return length;
}

/* With the table. */
static int find_token(CK_SLOT_ID slot) {
  if (control == NULL) return NO_TOKEN;
  uint32_t named = atomic_load(&control->tokens_named);
  struct labelled_slot *known = NULL;
  for (unsigned i = 0; i < labelled_count; i += 1) {
    if (labelled[i].slot == slot) known = &labelled[i];
  }
  if (known != NULL && known->tokens_named == named) return known->token;
  CK_TOKEN_INFO info;
  if (real->C_GetTokenInfo(slot, &info) != CKR_OK) return NO_TOKEN;
  size_t length = label_length((const char *)info.label);
  int token = NO_TOKEN;
  for (uint32_t i = MODULE + 1; i <= named && i < TOKENS; i += 1) {
    const char *label = control->scripts[i].label;
    if (length == label_length(label) && memcmp(info.label, label, length) == 0) token = (int)i;
  }
  if (known == NULL && labelled_count < LABELLED) known = &labelled[labelled_count++];
  if (known != NULL) *known = (struct labelled_slot){.slot = slot, .token = token, .tokens_named = named};
  return token;
}

int token_in_slot(CK_SLOT_ID slot) {
  pthread_mutex_lock(&table);
  int token = find_token(slot);
  pthread_mutex_unlock(&table);
  return token;
}

void forget_labels(void) {
  pthread_mutex_lock(&table);
  labelled_count = 0;
  pthread_mutex_unlock(&table);
}

/* With the table: takes the session out of it. */
static void unlink_session(const struct session *session) {
  struct session **link = &buckets[session->handle % BUCKETS];
  while (*link != NULL && *link != session) link = &(*link)->next;
  if (*link != NULL) *link = session->next;
}

/* With the table: ends a dead session that nobody is in. */
static void bury(struct session *session) {
  if (session->epoch == epoch) {
    unlink_session(session);
    real->C_CloseSession(session->handle);
  }
  free(session);
}

/* With the table. */
static void stop_counting(struct session *session) {
  if (session->token == NO_TOKEN) return;
  locals[session->token].sessions -= 1;
  sessions_give(session->token, session->writing);
  session->token = NO_TOKEN;
}

/* With the table. */
static void drop_anchor(int token) {
  if (locals[token].anchor == 0) return;
  real->C_CloseSession(locals[token].anchor);
  locals[token].anchor = 0;
}

/* With the table: a login ends with the last session on the token (PKCS#11 v2.40, 5.6). */
static void login_ends_with_last_session(int token) {
  if (locals[token].sessions > 0) return;
  drop_anchor(token);
  locals[token].logged_in = 0;
}

/* With the table: carries out what the script has killed since the last call. */
static void kill_sessions(int token) {
  uint32_t generation = SCRIPT(token, kill_generation);
  struct local_token *local = &locals[token];
  if (local->kill_generation == generation) return;
  int keep_login = SCRIPT(token, kill_keeps_login) != 0 && local->logged_in;
  for (unsigned i = 0; i < BUCKETS; i += 1) {
    for (struct session *session = buckets[i], *next; session != NULL; session = next) {
      next = session->next;
      if (session->token != token || session->dead || session->kill_generation == generation) continue;
      /* Read-write, so that it stands in nobody's way: a read-only session would keep a security officer out. */
      if (keep_login && local->anchor == 0) {
        real->C_OpenSession(session->slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &local->anchor);
      }
      session->dead = 1;
      stop_counting(session);
      if (session->busy == 0) bury(session);
    }
  }
  local->kill_generation = generation;
  atomic_store(&self->tokens[token].kill_generation, generation);
  if (!keep_login) login_ends_with_last_session(token);
}

static struct session *find_session(CK_SESSION_HANDLE handle) {
  struct session *session = buckets[handle % BUCKETS];
  while (session != NULL && session->handle != handle) session = session->next;
  return session;
}

void call_on_module(struct call *call, const char *function) {
  *call = (struct call){.function = function, .token = control == NULL ? NO_TOKEN : MODULE};
}

void call_on_slot(struct call *call, const char *function, CK_SLOT_ID slot) {
  *call = (struct call){.function = function, .token = token_in_slot(slot)};
}

void call_on_session(struct call *call, const char *function, CK_SESSION_HANDLE handle) {
  *call = (struct call){.function = function, .token = NO_TOKEN};
  if (control == NULL) return;
  pthread_mutex_lock(&table);
  call->session = find_session(handle);
  if (call->session != NULL) {
    call->session->busy += 1;
    call->token = find_token(call->session->slot);
  }
  pthread_mutex_unlock(&table);
}

void call_end(struct call *call) {
  struct session *session = call->session;
  if (session == NULL) return;
  call->session = NULL;
  pthread_mutex_lock(&table);
  session->busy -= 1;
  if (session->dead && session->busy == 0) bury(session);
  pthread_mutex_unlock(&table);
}

int session_is_open(const struct call *call) {
  if (call->session == NULL) return 0;
  pthread_mutex_lock(&table);
  int open = !call->session->dead;
  pthread_mutex_unlock(&table);
  return open;
}

static void hang(const struct call *call) {
  uint32_t generation;
  struct rule *rule = rule_that_strikes(call->token, call->function, RULE_HANG, &generation);
  if (rule == NULL) return;
  atomic_fetch_add(&self->tokens[call->token].hanging, 1);
  while (atomic_load(&rule->generation) == generation) sleep_micros(1000);
  atomic_fetch_sub(&self->tokens[call->token].hanging, 1);
}

int token_away(int token) {
  if (token <= MODULE) return 0;
  return SCRIPT(token, away) != 0 || locals[token].away_at_start < SCRIPT(token, token_lost_before);
}

CK_RV refusal(struct call *call) {
  if (call->token == NO_TOKEN) return CKR_OK;
  int ruled = SCRIPT(call->token, rules_armed) != 0;
  if (ruled) hang(call);
  if (call->token != MODULE) {
    pthread_mutex_lock(&table);
    kill_sessions(call->token);
    int dead = call->session != NULL && call->session->dead;
    int lost = call->session != NULL && call->session->away_generation < SCRIPT(call->token, sessions_lost_before);
    pthread_mutex_unlock(&table);
    if (dead) return CKR_SESSION_HANDLE_INVALID;
    if (lost || token_away(call->token)) return call->session == NULL ? CKR_TOKEN_NOT_PRESENT : CKR_DEVICE_REMOVED;
  }
  uint32_t generation;
  struct rule *rule = ruled ? rule_that_strikes(call->token, call->function, RULE_FAIL, &generation) : NULL;
  return rule == NULL ? CKR_OK : atomic_load(&rule->ckr);
}

CK_RV session_opening(struct call *call, CK_FLAGS flags) {
  struct session *session = calloc(1, sizeof *session);
  if (session == NULL) return CKR_HOST_MEMORY;
  session->token = call->token;
  session->writing = (flags & CKF_RW_SESSION) != 0;
  if (call->token != NO_TOKEN) {
    CK_RV rv = sessions_take(call->token, session->writing);
    if (rv != CKR_OK) {
      free(session);
      return rv;
    }
    pthread_mutex_lock(&table);
    session->kill_generation = locals[call->token].kill_generation;
    pthread_mutex_unlock(&table);
    session->away_generation = SCRIPT(call->token, away_generation);
  }
  call->session = session;
  return CKR_OK;
}

void session_opened(struct call *call, CK_SLOT_ID slot, CK_SESSION_HANDLE handle, CK_RV rv) {
  struct session *session = call->session;
  if (session == NULL) return;
  call->session = NULL;
  if (rv != CKR_OK) {
    if (session->token != NO_TOKEN) sessions_give(session->token, session->writing);
    free(session);
    return;
  }
  session->handle = handle;
  session->slot = slot;
  pthread_mutex_lock(&table);
  session->epoch = epoch;
  session->next = buckets[handle % BUCKETS];
  buckets[handle % BUCKETS] = session;
  if (session->token != NO_TOKEN) {
    struct local_token *local = &locals[session->token];
    local->sessions += 1;
    /* Others were killed while it was being opened, and so was it: the next call has to look again. */
    local->kill_generation = session->kill_generation;
  }
  pthread_mutex_unlock(&table);
}

/* With the table: for a session that the real module has closed already. */
static void forget_session(struct session *session) {
  int token = session->token;
  session->dead = 1;
  stop_counting(session);
  unlink_session(session);
  session->epoch = 0; /* so that nobody closes it again */
  if (session->busy == 0) free(session);
  if (token != NO_TOKEN) login_ends_with_last_session(token);
}

void session_closed(struct call *call) {
  if (call->session == NULL) return;
  pthread_mutex_lock(&table);
  forget_session(call->session);
  pthread_mutex_unlock(&table);
}

/* With the table: `slot` is NULL for those on every slot. */
static void forget_sessions(const CK_SLOT_ID *slot) {
  for (unsigned i = 0; i < BUCKETS; i += 1) {
    for (struct session *session = buckets[i], *next; session != NULL; session = next) {
      next = session->next;
      if (slot == NULL || session->slot == *slot) forget_session(session);
    }
  }
}

void all_sessions_closed(CK_SLOT_ID slot) {
  pthread_mutex_lock(&table);
  int token = find_token(slot);
  if (token != NO_TOKEN) locals[token].anchor = 0;
  forget_sessions(&slot);
  pthread_mutex_unlock(&table);
}

void token_reinitializing(int token) {
  if (token == NO_TOKEN) return;
  pthread_mutex_lock(&table);
  drop_anchor(token);
  pthread_mutex_unlock(&table);
}

int login_lost(int token) {
  if (token == NO_TOKEN) return 0;
  pthread_mutex_lock(&table);
  int lost = locals[token].logged_in && locals[token].away_at_login < SCRIPT(token, sessions_lost_before);
  pthread_mutex_unlock(&table);
  return lost;
}

int logged_out(int token) {
  if (token == NO_TOKEN) return 0;
  pthread_mutex_lock(&table);
  int out = locals[token].logout_generation != SCRIPT(token, logout_generation);
  pthread_mutex_unlock(&table);
  return out;
}

void login_made(int token, uint32_t logout_generation) {
  if (token == NO_TOKEN) return;
  pthread_mutex_lock(&table);
  locals[token].logout_generation = logout_generation;
  locals[token].away_at_login = SCRIPT(token, away_generation);
  locals[token].logged_in = 1;
  pthread_mutex_unlock(&table);
}

void login_ended(int token) {
  if (token == NO_TOKEN) return;
  pthread_mutex_lock(&table);
  locals[token].logged_in = 0;
  pthread_mutex_unlock(&table);
}

void process_initialized(void) {
  pthread_mutex_lock(&table);
  epoch += 1;
  labelled_count = 0;
  for (int token = 0; token < TOKENS; token += 1) {
    uint32_t killed = SCRIPT(token, kill_generation);
    locals[token] = (struct local_token){
        .kill_generation = killed,
        .logout_generation = SCRIPT(token, logout_generation),
        .away_at_start = SCRIPT(token, away_generation),
    };
    atomic_store(&self->tokens[token].kill_generation, killed);
  }
  self->initialized = 1;
  pthread_mutex_unlock(&table);
}

void process_finalized(void) {
  pthread_mutex_lock(&table);
  for (int token = 0; token < TOKENS; token += 1) locals[token].anchor = 0;
  forget_sessions(NULL);
  labelled_count = 0;
  epoch += 1;
  if (control != NULL) self->initialized = 0;
  pthread_mutex_unlock(&table);
}
