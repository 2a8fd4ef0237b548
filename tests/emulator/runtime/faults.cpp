// Returns to the launch from a kernel's fault: a signal or a failed check.
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/time.h>
#include <ucontext.h>

#include "executor.h"

namespace emu {
const Launch* running;

namespace {
constexpr int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGTRAP, SIGFPE, SIGVTALRM};
constexpr int signal_count = sizeof signals / sizeof *signals;
constexpr long near = 64 << 20;  // the size of the guard pages

sigjmp_buf way_out;
pthread_t runner;
char text[4096];
struct sigaction before[signal_count];

// Writes " (buffer 0 'x' of 256 bytes, ...)" for an address in or near a buffer.
void describe(const char* address, char* out, size_t size) {
  *out = 0;
  for (u32 i = 0; i < running->count; i++) {
    const Buffer& b = running->buffers[i];
    const long offset = address - b.low;
    if (offset < -near || offset >= long(b.bytes) + near) continue;
    snprintf(out, size, " (buffer %u '%s' of %lu bytes%s, byte offset %ld)", i, b.name, b.bytes,
             b.writable ? "" : ", read-only", offset);
    if (offset >= 0 && offset < long(b.bytes)) return;
  }
  for (const Thread& t : threads)
    if (t.stack_low && address >= t.stack_low - page && address < t.stack_low)
      snprintf(out, size, " (stack overflow of thread %u)", t.index);
}

[[noreturn]] void fail_trap(int signal, char* address, bool write) {
  if (signal == SIGVTALRM) fail("CPU time limit exceeded (endless loop?)");
  if (signal == SIGFPE) fail("integer division by zero");
  if (signal == SIGILL || signal == SIGTRAP)
    fail("undefined behaviour trap (array bounds, alignment, shift or division)");
  fail_access(write, address);
}

void on_signal(int signal, siginfo_t* info, void* context) {
  if (running && pthread_equal(pthread_self(), runner)) {
    const bool write = ((ucontext_t*)context)->uc_mcontext.gregs[REG_ERR] & 2;
    fail_trap(signal, (char*)info->si_addr, write);
  }
  if (signal == SIGVTALRM) {
    // The timer's signal may interrupt any thread of the process.
    if (running) pthread_kill(runner, signal);
    return;
  }
  ::signal(signal, SIG_DFL);
  raise(signal);
}

void catch_signals() {
  struct sigaction action = {};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (int i = 0; i < signal_count; i++) sigaction(signals[i], &action, &before[i]);
}

void set_timer(u32 milliseconds) {
  itimerval time = {};
  time.it_value.tv_sec = milliseconds / 1000;
  time.it_value.tv_usec = milliseconds % 1000 * 1000;
  setitimer(ITIMER_VIRTUAL, &time, nullptr);
}
}  // namespace

void fail(const char* format, ...) {
  va_list values;
  va_start(values, format);
  const int n = vsnprintf(text, sizeof text, format, values);
  va_end(values);
  const Thread* t = current;
  if (t && n < int(sizeof text)) {
    const u32 *g = group.position, *p = t->in_group;
    snprintf(text + n, sizeof text - n,
             " at threadgroup (%u,%u,%u) thread (%u,%u,%u) simdgroup %u lane %u", g[0], g[1], g[2],
             p[0], p[1], p[2], t->simdgroup, t->lane);
  }
  siglongjmp(way_out, 1);
}

void fail_access(bool write, char* address) {
  char where[256];
  describe(address, where, sizeof where);
  fail("out-of-bounds %s of address %p%s", write ? "write" : "read", address, where);
}

bool guarded(void (*body)(), const Launch& launch, char* message, size_t size) {
  static char stack[1 << 16];  // for signals, because a fiber's stack may have overflowed
  stack_t signal_stack = {}, old_stack;
  signal_stack.ss_sp = stack;
  signal_stack.ss_size = sizeof stack;
  sigaltstack(&signal_stack, &old_stack);
  runner = pthread_self();
  catch_signals();
  set_timer(options.cpu_limit_ms);
  current = nullptr;
  running = &launch;
  const bool failed = sigsetjmp(way_out, 1);
  if (!failed) body();
  running = nullptr;
  current = nullptr;
  set_timer(0);
  for (int i = 0; i < signal_count; i++) sigaction(signals[i], &before[i], nullptr);
  sigaltstack(&old_stack, nullptr);
  if (failed) {
    strncpy(message, text, size - 1);
    message[size - 1] = 0;
  }
  return failed;
}
}  // namespace emu
