/*
 * The functions whose answers the script changes beyond its rules, and the two that the module adds nothing to but a start.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "calls.h"

/* The longest signature of SoftHSM is that of RSA-16384. */
enum { SIGNATURE_OCTETS_MAX = 2048 };

static CK_FUNCTION_LIST functions = {
    {2, 40},
#define CK_PKCS11_FUNCTION_INFO(name) name,
#include "pkcs11/pkcs11f.h"
#undef CK_PKCS11_FUNCTION_INFO
};

static pthread_mutex_t loading = PTHREAD_MUTEX_INITIALIZER;
static pthread_mutex_t logging_in = PTHREAD_MUTEX_INITIALIZER;

/* Neither module is ever unloaded: a thread that hangs in this one must find its code when it is released. */
static CK_FUNCTION_LIST_PTR load(void) {
  const char *path = getenv("FAULTY_MODULE_REAL");
  CK_FUNCTION_LIST_PTR list = NULL;
  CK_C_GetFunctionList get;
  Dl_info own;
  if (dladdr((void *)&functions, &own) != 0) dlopen(own.dli_fname, RTLD_NOW | RTLD_NODELETE);
  void *library = path == NULL ? NULL : dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    fprintf(stderr, "faulty module: FAULTY_MODULE_REAL: %s\n", path == NULL ? "not set" : dlerror());
    return NULL;
  }
  *(void **)&get = dlsym(library, "C_GetFunctionList");
  if (get == NULL || get(&list) != CKR_OK) return NULL;
  return list;
}

/* The only name that others can see: the rest must not meet those of the process that loads us. */
__attribute__((visibility("default"))) CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR ppFunctionList) {
  if (ppFunctionList == NULL) return CKR_ARGUMENTS_BAD;
  pthread_mutex_lock(&loading);
  if (real == NULL) real = load();
  pthread_mutex_unlock(&loading);
  if (real == NULL) return CKR_GENERAL_ERROR;
  *ppFunctionList = &functions;
  return CKR_OK;
}

CK_RV C_Initialize(CK_VOID_PTR pInitArgs) {
  struct call call;
  if (!control_attach()) return CKR_GENERAL_ERROR;
  atomic_fetch_add(&control->initialize_calls, 1);
  call_on_module(&call, __func__);
  CK_RV rv = refusal(&call);
  if (rv != CKR_OK) return rv;
  rv = real->C_Initialize(pInitArgs);
  if (rv == CKR_OK) process_initialized();
  return rv;
}

CK_RV C_Finalize(CK_VOID_PTR pReserved) {
  struct call call;
  if (control != NULL) atomic_fetch_add(&control->finalize_calls, 1);
  call_on_module(&call, __func__);
  CK_RV rv = refusal(&call);
  if (rv != CKR_OK) return rv;
  rv = real->C_Finalize(pReserved);
  if (rv == CKR_OK) process_finalized();
  return rv;
}

/* Slots with a token that is not away, in the order of the real module; the caller frees them. */
static CK_RV present_slots(CK_SLOT_ID_PTR *slots, CK_ULONG_PTR count) {
  CK_ULONG capacity = 0;
  CK_RV rv = real->C_GetSlotList(CK_TRUE, NULL, &capacity);
  if (rv != CKR_OK) return rv;
  do {
    capacity += 8; /* tokens come while we look */
    *slots = malloc(capacity * sizeof **slots);
    if (*slots == NULL) return CKR_HOST_MEMORY;
    *count = capacity;
    rv = real->C_GetSlotList(CK_TRUE, *slots, count);
    if (rv != CKR_OK) free(*slots);
  } while (rv == CKR_BUFFER_TOO_SMALL);
  if (rv != CKR_OK) return rv;
  CK_ULONG present = 0;
  for (CK_ULONG i = 0; i < *count; i += 1) {
    if (!token_away(token_in_slot((*slots)[i]))) (*slots)[present++] = (*slots)[i];
  }
  *count = present;
  return CKR_OK;
}

CK_RV C_GetSlotList(CK_BBOOL tokenPresent, CK_SLOT_ID_PTR pSlotList, CK_ULONG_PTR pulCount) {
  struct call call;
  call_on_module(&call, __func__);
  CK_RV rv = refusal(&call);
  if (rv != CKR_OK) return rv;
  if (!tokenPresent || pulCount == NULL) return real->C_GetSlotList(tokenPresent, pSlotList, pulCount);
  CK_SLOT_ID_PTR slots;
  CK_ULONG count;
  rv = present_slots(&slots, &count);
  if (rv != CKR_OK) return rv;
  if (pSlotList != NULL && *pulCount < count) rv = CKR_BUFFER_TOO_SMALL;
  else if (pSlotList != NULL) memcpy(pSlotList, slots, count * sizeof *slots);
  *pulCount = count;
  free(slots);
  return rv;
}

CK_RV C_GetSlotInfo(CK_SLOT_ID slotID, CK_SLOT_INFO_PTR pInfo) {
  struct call call;
  call_on_slot(&call, __func__, slotID);
  CK_RV rv = refusal(&call);
  int away = token_away(call.token);
  /* The slot is there without its token too. */
  if (rv == CKR_OK || away) rv = real->C_GetSlotInfo(slotID, pInfo);
  if (rv == CKR_OK && away) pInfo->flags &= ~(CK_FLAGS)CKF_TOKEN_PRESENT;
  return rv;
}

CK_RV C_GetTokenInfo(CK_SLOT_ID slotID, CK_TOKEN_INFO_PTR pInfo) {
  struct call call;
  call_on_slot(&call, __func__, slotID);
  CK_RV rv = refusal(&call);
  if (rv == CKR_OK) rv = real->C_GetTokenInfo(slotID, pInfo);
  if (rv != CKR_OK || call.token == NO_TOKEN) return rv;
  struct token_script *script = &control->scripts[call.token];
  if (atomic_load(&script->sessions_told) != 0) {
    pInfo->ulMaxSessionCount = atomic_load(&script->sessions_told);
    pInfo->ulSessionCount = self->tokens[call.token].sessions; /* those of one application, says the standard */
  }
  if (atomic_load(&script->writing_max) != 0) {
    pInfo->ulMaxRwSessionCount = atomic_load(&script->writing_max);
    pInfo->ulRwSessionCount = self->tokens[call.token].writing;
  }
  return rv;
}

CK_RV C_InitToken(CK_SLOT_ID slotID, CK_UTF8CHAR_PTR pPin, CK_ULONG ulPinLen, CK_UTF8CHAR_PTR pLabel) {
  struct call call;
  call_on_slot(&call, __func__, slotID);
  CK_RV rv = refusal(&call);
  if (rv != CKR_OK) return rv;
  token_reinitializing(call.token);
  rv = real->C_InitToken(slotID, pPin, ulPinLen, pLabel);
  forget_labels();
  return rv;
}

CK_RV C_OpenSession(CK_SLOT_ID slotID, CK_FLAGS flags, CK_VOID_PTR pApplication, CK_NOTIFY Notify, CK_SESSION_HANDLE_PTR phSession) {
  struct call call;
  call_on_slot(&call, __func__, slotID);
  CK_RV rv = refusal(&call);
  if (rv == CKR_OK) rv = session_opening(&call, flags);
  if (rv != CKR_OK) return rv;
  rv = real->C_OpenSession(slotID, flags, pApplication, Notify, phSession);
  session_opened(&call, slotID, rv == CKR_OK ? *phSession : CK_INVALID_HANDLE, rv);
  return rv;
}

CK_RV C_CloseSession(CK_SESSION_HANDLE hSession) {
  struct call call;
  call_on_session(&call, __func__, hSession);
  CK_RV rv = refusal(&call);
  if (rv == CKR_OK) {
    rv = real->C_CloseSession(hSession);
    if (rv == CKR_OK) session_closed(&call);
  }
  call_end(&call);
  return rv;
}

CK_RV C_CloseAllSessions(CK_SLOT_ID slotID) {
  struct call call;
  call_on_slot(&call, __func__, slotID);
  CK_RV rv = refusal(&call);
  if (rv == CKR_OK) rv = real->C_CloseAllSessions(slotID);
  if (rv == CKR_OK) all_sessions_closed(slotID);
  return rv;
}

/*
 * A token that the script has logged out is still logged in as far as the real module knows. So the next login logs out
 * first, which makes the handles of private objects invalid, as the standard wants it after every logout.
 */
static CK_RV log_in_user(int token, CK_SESSION_HANDLE session, CK_UTF8CHAR_PTR pin, CK_ULONG length) {
  if (token == NO_TOKEN) return real->C_Login(session, CKU_USER, pin, length);
  /* What SoftHSM says when its token was away: it has forgotten the keys, but not the login. */
  if (login_lost(token)) return CKR_USER_ALREADY_LOGGED_IN;
  uint32_t generation = atomic_load(&control->scripts[token].logout_generation);
  pthread_mutex_lock(&logging_in);
  if (logged_out(token)) real->C_Logout(session);
  CK_RV rv = real->C_Login(session, CKU_USER, pin, length);
  if (rv == CKR_OK) login_made(token, generation);
  pthread_mutex_unlock(&logging_in);
  return rv;
}

CK_RV C_Login(CK_SESSION_HANDLE hSession, CK_USER_TYPE userType, CK_UTF8CHAR_PTR pPin, CK_ULONG ulPinLen) {
  struct call call;
  call_on_session(&call, __func__, hSession);
  struct token_state *state = call.token == NO_TOKEN ? NULL : &control->states[call.token];
  if (state != NULL) atomic_fetch_add(&state->login_calls, 1);
  CK_RV rv = refusal(&call);
  if (rv == CKR_OK) {
    rv = userType == CKU_USER ? log_in_user(call.token, hSession, pPin, ulPinLen) : real->C_Login(hSession, userType, pPin, ulPinLen);
  }
  if (state != NULL && rv != CKR_OK && rv != CKR_USER_ALREADY_LOGGED_IN) atomic_fetch_add(&state->logins_refused, 1);
  call_end(&call);
  return rv;
}

CK_RV C_Logout(CK_SESSION_HANDLE hSession) {
  struct call call;
  call_on_session(&call, __func__, hSession);
  CK_RV rv = refusal(&call);
  if (rv == CKR_OK) {
    rv = real->C_Logout(hSession);
    if (rv == CKR_OK) login_ended(call.token);
  }
  call_end(&call);
  return rv;
}

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* C_Sign ends the operation also when it fails. The real module has not seen the call, so it is made to, for nothing. */
static void end_operation(const struct call *call, CK_SESSION_HANDLE session, CK_BYTE_PTR data, CK_ULONG length) {
  CK_BYTE nowhere[SIGNATURE_OCTETS_MAX];
  CK_ULONG octets = sizeof nowhere;
  if (session_is_open(call)) real->C_Sign(session, data, length, nowhere, &octets);
}

CK_RV C_Sign(CK_SESSION_HANDLE hSession, CK_BYTE_PTR pData, CK_ULONG ulDataLen, CK_BYTE_PTR pSignature, CK_ULONG_PTR pulSignatureLen) {
  struct call call;
  uint64_t started = now();
  call_on_session(&call, __func__, hSession);
  /* Asking how long a signature is, is no signature. */
  if (call.token == NO_TOKEN || pSignature == NULL) {
    CK_RV rv = refusal(&call);
    if (rv == CKR_OK) rv = real->C_Sign(hSession, pData, ulDataLen, pSignature, pulSignatureLen);
    call_end(&call);
    return rv;
  }
  struct token_state *state = &control->states[call.token];
  atomic_fetch_add(&state->sign_calls, 1);
  CK_RV rv = refusal(&call);
  if (rv == CKR_OK && (logged_out(call.token) || login_lost(call.token))) rv = CKR_USER_NOT_LOGGED_IN;
  if (rv == CKR_OK) {
    signing_begin(call.token);
    uint32_t latency = atomic_load(&control->scripts[call.token].sign_latency_micros);
    if (latency != 0) sleep_micros(latency);
    rv = real->C_Sign(hSession, pData, ulDataLen, pSignature, pulSignatureLen);
    signing_end(call.token);
    if (rv == CKR_OK) atomic_fetch_add(&state->signatures, 1);
  } else if (rv != CKR_BUFFER_TOO_SMALL) {
    end_operation(&call, hSession, pData, ulDataLen);
  }
  atomic_fetch_add(&state->sign_nanoseconds, now() - started);
  call_end(&call);
  return rv;
}
