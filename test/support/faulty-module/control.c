/*
 * What all processes share: the mapping, its lock, the table of processes and the turns to sign.
 *
 * A process may die at any point (SIGKILL is what the tests are for). So the lock names its holder, each process counts
 * what it holds in an entry of its own, and whoever waits in vain looks for dead ones and takes their entries away.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

#include "control.h"

struct control *control;
struct process *self;

static pthread_mutex_t attaching = PTHREAD_MUTEX_INITIALIZER;
static dev_t attached_device;
static ino_t attached_file;

void sleep_micros(uint64_t micros) {
  struct timespec left = {.tv_sec = (time_t)(micros / 1000000), .tv_nsec = (long)(micros % 1000000) * 1000};
  while (nanosleep(&left, &left) != 0 && errno == EINTR) continue;
}

/* A zombie is dead too: where nobody collects it, kill(pid, 0) would find it for ever. */
static int alive(uint32_t pid) {
  if (kill((pid_t)pid, 0) != 0 && errno == ESRCH) return 0;
#ifdef __linux__
  char path[32], text[512];
  snprintf(path, sizeof path, "/proc/%u/stat", pid);
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return errno != ENOENT;
  ssize_t length = read(file, text, sizeof text - 1);
  close(file);
  if (length <= 0) return 0;
  text[length] = '\0';
  /* The name before the state may contain anything, blanks and brackets too. */
  const char *end = strrchr(text, ')');
  return end == NULL || (end[2] != 'Z' && end[2] != 'X');
#else
  return 1;
#endif
}

void control_lock(void) {
  uint32_t pid = (uint32_t)getpid();
  for (unsigned tries = 1;; tries += 1) {
    uint32_t holder = 0;
    if (atomic_compare_exchange_strong(&control->lock, &holder, pid)) return;
    /* What happens inside takes less than a microsecond, unless the holder is not running just now. */
    if (tries < 100) sched_yield();
    else sleep_micros(50);
    if (tries % 100 == 0 && !alive(holder) && atomic_compare_exchange_strong(&control->lock, &holder, pid)) return;
  }
}

void control_unlock(void) { atomic_store(&control->lock, 0); }

/* With the lock. */
static void forget_dead_processes(void) {
  for (unsigned i = 0; i < PROCESSES; i += 1) {
    struct process *process = &control->processes[i];
    uint32_t pid = atomic_load(&process->pid);
    if (pid == 0 || alive(pid)) continue;
    memset(process, 0, sizeof *process);
    for (unsigned token = 0; token < TOKENS; token += 1) {
      for (unsigned w = 0; w < WAITERS; w += 1) {
        struct waiter *waiter = &control->states[token].waiters[w];
        if (waiter->process == i + 1) waiter->process = 0;
      }
    }
  }
}

static int enter_process(void) {
  uint32_t pid = (uint32_t)getpid();
  struct process *entry = NULL;
  control_lock();
  forget_dead_processes();
  for (unsigned i = 0; i < PROCESSES; i += 1) {
    struct process *candidate = &control->processes[i];
    if (atomic_load(&candidate->pid) == pid) {
      entry = candidate;
      break;
    }
    if (entry == NULL && atomic_load(&candidate->pid) == 0) entry = candidate;
  }
  if (entry != NULL) atomic_store(&entry->pid, pid);
  control_unlock();
  if (entry == NULL) fprintf(stderr, "faulty module: more than %d processes use one control file\n", PROCESSES);
  self = entry;
  return entry != NULL;
}

static int attach_path(const char *path) {
  struct stat status;
  int file = open(path, O_RDWR | O_CLOEXEC);
  if (file < 0 || fstat(file, &status) != 0) {
    fprintf(stderr, "faulty module: FAULTY_MODULE_CONTROL=%s: %s\n", path, strerror(errno));
    if (file >= 0) close(file);
    return 0;
  }
  if (control != NULL && status.st_dev == attached_device && status.st_ino == attached_file) {
    close(file);
    return 1;
  }
  void *mapped = MAP_FAILED;
  if (status.st_size == (off_t)sizeof(struct control)) {
    mapped = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  }
  close(file);
  if (mapped == MAP_FAILED || memcmp(mapped, CONTROL_MAGIC, 8) != 0) {
    fprintf(stderr, "faulty module: FAULTY_MODULE_CONTROL=%s: not a control file of this version\n", path);
    if (mapped != MAP_FAILED) munmap(mapped, sizeof(struct control));
    return 0;
  }
  /* An earlier file stays mapped: another thread may be on its way out of it. */
  control = mapped;
  attached_device = status.st_dev;
  attached_file = status.st_ino;
  return enter_process();
}

int control_attach(void) {
  const char *path = getenv("FAULTY_MODULE_CONTROL");
  if (path == NULL) {
    fprintf(stderr, "faulty module: FAULTY_MODULE_CONTROL is not set\n");
    return 0;
  }
  pthread_mutex_lock(&attaching);
  int attached = attach_path(path) && self != NULL;
  pthread_mutex_unlock(&attaching);
  return attached;
}

/* With the lock. */
static uint64_t sessions_open(int token) {
  uint64_t open = 0;
  uint32_t killed = atomic_load(&control->scripts[token].kill_generation);
  for (unsigned i = 0; i < PROCESSES; i += 1) {
    struct process_token *held = &control->processes[i].tokens[token];
    /* A process that has not called since its sessions were killed has none, though it still counts them. */
    if (atomic_load(&held->kill_generation) == killed) open += held->sessions;
  }
  return open;
}

/* With the lock. */
static uint64_t signing_now(int token) {
  uint64_t running = 0;
  for (unsigned i = 0; i < PROCESSES; i += 1) running += control->processes[i].tokens[token].running;
  return running;
}

/* With the lock: a test that starts anew wants the most of its own time only. */
static struct token_state *state_of(int token) {
  struct token_state *state = &control->states[token];
  uint32_t generation = atomic_load(&control->scripts[token].most_generation);
  if (state->most_generation != generation) {
    state->most_generation = generation;
    state->sessions_most = sessions_open(token);
    state->running_most = signing_now(token);
    state->sessions_of_one_most = 0;
    state->writing_of_one_most = 0;
    for (unsigned i = 0; i < PROCESSES; i += 1) {
      const struct process_token *held = &control->processes[i].tokens[token];
      if (held->sessions > state->sessions_of_one_most) state->sessions_of_one_most = held->sessions;
      if (held->writing > state->writing_of_one_most) state->writing_of_one_most = held->writing;
    }
  }
  return state;
}

CK_RV sessions_take(int token, int writing) {
  CK_RV rv = CKR_OK;
  uint32_t max = atomic_load(&control->scripts[token].sessions_max);
  uint32_t writing_max = atomic_load(&control->scripts[token].writing_max);
  struct process_token *held = &self->tokens[token];
  control_lock();
  if (writing && writing_max != 0 && held->writing >= writing_max) rv = CKR_SESSION_COUNT;
  if (rv == CKR_OK && max != 0 && sessions_open(token) >= max) {
    forget_dead_processes();
    if (sessions_open(token) >= max) rv = CKR_SESSION_COUNT;
  }
  if (rv == CKR_OK) {
    struct token_state *state = state_of(token);
    held->sessions += 1;
    if (writing) held->writing += 1;
    uint64_t open = sessions_open(token);
    if (open > state->sessions_most) state->sessions_most = open;
    if (held->sessions > state->sessions_of_one_most) state->sessions_of_one_most = held->sessions;
    if (held->writing > state->writing_of_one_most) state->writing_of_one_most = held->writing;
  }
  control_unlock();
  return rv;
}

void sessions_give(int token, int writing) {
  control_lock();
  self->tokens[token].sessions -= 1;
  if (writing) self->tokens[token].writing -= 1;
  control_unlock();
}

#ifdef __linux__
static void wait_for_grant(struct waiter *waiter, uint64_t micros) {
  struct timespec timeout = {.tv_sec = 0, .tv_nsec = (long)micros * 1000};
  syscall(SYS_futex, &waiter->state, FUTEX_WAIT, WAITING, &timeout, NULL, 0);
}
static void wake(struct waiter *waiter) { syscall(SYS_futex, &waiter->state, FUTEX_WAKE, 1, NULL, NULL, 0); }
#else
static void wait_for_grant(struct waiter *waiter, uint64_t micros) {
  for (uint64_t slept = 0; slept < micros && atomic_load(&waiter->state) == WAITING; slept += 200) sleep_micros(200);
}
static void wake(struct waiter *waiter) { (void)waiter; }
#endif

/* With the lock. */
static int has_room(int token) {
  uint32_t max = atomic_load(&control->scripts[token].sign_parallel_max);
  return max == 0 || signing_now(token) < max;
}

/* With the lock. */
static void take_turn(int token, struct process *process) {
  struct token_state *state = state_of(token);
  process->tokens[token].running += 1;
  uint64_t running = signing_now(token);
  if (running > state->running_most) state->running_most = running;
}

/* With the lock: the one that waits longest, or NULL. */
static struct waiter *first_waiter(int token) {
  struct waiter *first = NULL;
  for (unsigned i = 0; i < WAITERS; i += 1) {
    struct waiter *waiter = &control->states[token].waiters[i];
    if (waiter->process == 0 || atomic_load(&waiter->state) != WAITING) continue;
    if (first == NULL || waiter->ticket < first->ticket) first = waiter;
  }
  return first;
}

/* With the lock: the turn is handed over, so a newcomer cannot snatch it from the one that was woken. */
static void hand_over(int token) {
  struct waiter *waiter;
  while (has_room(token) && (waiter = first_waiter(token)) != NULL) {
    take_turn(token, &control->processes[waiter->process - 1]);
    atomic_store(&waiter->state, GRANTED);
    wake(waiter);
  }
}

/* With the lock: a place in the queue, or NULL when it is full. */
static struct waiter *queue_up(int token) {
  for (unsigned i = 0; i < WAITERS; i += 1) {
    struct waiter *waiter = &control->states[token].waiters[i];
    if (waiter->process != 0) continue;
    waiter->process = (uint32_t)(self - control->processes) + 1;
    waiter->ticket = control->next_ticket++;
    atomic_store(&waiter->state, WAITING);
    return waiter;
  }
  return NULL;
}

void signing_begin(int token) {
  struct waiter *waiter = NULL;
  while (waiter == NULL) {
    control_lock();
    if (has_room(token) && first_waiter(token) == NULL) {
      take_turn(token, self);
      control_unlock();
      return;
    }
    waiter = queue_up(token);
    hand_over(token);
    control_unlock();
    if (waiter == NULL) sleep_micros(1000);
  }
  while (atomic_load(&waiter->state) == WAITING) {
    /* Nobody wakes us when the limit is raised, or when one that had a turn was killed: look again after a while. */
    wait_for_grant(waiter, 10000);
    if (atomic_load(&waiter->state) != WAITING) break;
    control_lock();
    forget_dead_processes();
    hand_over(token);
    control_unlock();
  }
  control_lock();
  waiter->process = 0;
  control_unlock();
}

void signing_end(int token) {
  control_lock();
  self->tokens[token].running -= 1;
  hand_over(token);
  control_unlock();
}
