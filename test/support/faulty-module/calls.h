/*
 * One call into the module, from the look at its rules to its end, and the sessions of this process.
 *
 * Every function of the module is: `call_on_...`, `refusal`, the real function when there is no refusal, `call_end`.
 */
#ifndef FAULTY_MODULE_CALLS_H
#define FAULTY_MODULE_CALLS_H

#include "control.h"

/* The module behind this one. */
extern CK_FUNCTION_LIST_PTR real;

struct session;

struct call {
  const char *function;
  int token; /* an entry of the control file, MODULE or NO_TOKEN */
  struct session *session;
};

void call_on_module(struct call *call, const char *function);
void call_on_slot(struct call *call, const char *function, CK_SLOT_ID slot);
/* A session nobody opened here has no token and no rules: the real module knows what to say to it. */
void call_on_session(struct call *call, const char *function, CK_SESSION_HANDLE handle);
/* Hangs when a rule says so, then says why the call must not reach the token, or CKR_OK. */
CK_RV refusal(struct call *call);
void call_end(struct call *call);

/* Is the token of this entry out of its slot, as this process sees it? */
int token_away(int token);
/* Entry of the token in a slot. */
int token_in_slot(CK_SLOT_ID slot);

/* The steps of a session's life, each around a call to the real module. */
CK_RV session_opening(struct call *call, CK_FLAGS flags);
void session_opened(struct call *call, CK_SLOT_ID slot, CK_SESSION_HANDLE handle, CK_RV rv);
void session_closed(struct call *call);
void all_sessions_closed(CK_SLOT_ID slot);
int session_is_open(const struct call *call);

/* What C_Login and C_Sign have to know. */
int login_lost(int token);
int logged_out(int token);
void login_made(int token, uint32_t logout_generation);
void login_ended(int token);

/* A new start after C_Initialize, and the end of everything after C_Finalize. */
void process_initialized(void);
void process_finalized(void);
/* C_InitToken: labels change, and it needs a token without sessions. */
void token_reinitializing(int token);
void forget_labels(void);

#endif
