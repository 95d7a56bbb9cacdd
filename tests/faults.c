/* Counts the write operations of a command and of all its children below one folder, and disturbs them at one of them.

Loaded by `LD_PRELOAD`, see `faults.py`, which shares a file of memory with it: all processes count together. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL, TEAR, FULL };
enum { GO, DIE, DO_AND_DIE, FAIL };

struct control {
    int64_t count, at;
    int32_t mode, leader, armed, log;
    char root[512];
};
static struct control *control;
static int log_file = -1;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTS_CONTROL");
    char log[PATH_MAX];
    if (!path) return;
    int fd = REAL(open)(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *m = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    REAL(close)(fd);
    if (m != MAP_FAILED) control = m;
    snprintf(log, sizeof log, "%s.log", path);
    log_file = REAL(open)(log, O_WRONLY | O_APPEND | O_CLOEXEC);
}

static void die(void) {
    if (control->leader > 0) kill(control->leader, SIGKILL);
    kill(getpid(), SIGKILL);
}

/* The absolute path of a name relative to a folder */
static void absolute(int folder, const char *name, char *out) {
    char base[PATH_MAX] = "", link[64];
    if (name[0] == '/') {
        snprintf(out, PATH_MAX, "%s", name);
        return;
    }
    if (folder == AT_FDCWD) {
        if (!getcwd(base, sizeof base)) base[0] = 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t n = readlink(link, base, sizeof base - 1);
        base[n > 0 ? n : 0] = 0;
    }
    snprintf(out, PATH_MAX, "%.2000s/%.2000s", base, name);
}

static int event(const char *name, const char *path, int takes_space) {
    if (!control || !control->armed || strncmp(path, control->root, strlen(control->root))) return GO;
    int64_t k = __sync_add_and_fetch(&control->count, 1);
    if (control->log && log_file >= 0) {
        char line[PATH_MAX + 64];
        int n = snprintf(line, sizeof line, "%s\t%s\n", name, path);
        if (REAL(write)(log_file, line, n)) {}
    }
    if (control->mode == FULL) return k >= control->at && takes_space ? FAIL : GO;
    if (control->mode == COUNT || k != control->at) return GO;
    if (control->mode == KILL) die();
    return DO_AND_DIE;
}

static int event_of(const char *name, int folder, const char *path, int takes_space) {
    char full[PATH_MAX];
    if (!control || !control->armed || !path) return GO;
    absolute(folder, path, full);
    return event(name, full, takes_space);
}

static int event_fd(const char *name, int fd, int takes_space) {
    char link[64], path[PATH_MAX];
    if (!control || !control->armed) return GO;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return GO;
    path[n] = 0;
    return event(name, path, takes_space);
}

#define FULL_DISK { errno = ENOSPC; return -1; }
#define THEN(call) { __typeof__(call) r = (call); if (todo == DO_AND_DIE) die(); return r; }

#define OPENER(name)                                                        \
    int name(const char *path, int flags, ...) {                            \
        va_list a;                                                          \
        va_start(a, flags);                                                 \
        mode_t mode = va_arg(a, mode_t);                                    \
        va_end(a);                                                          \
        int todo = flags & (O_CREAT | O_TRUNC) ? event_of("open", AT_FDCWD, path, 0) : GO; \
        THEN(REAL(name)(path, flags, mode))                                 \
    }
#define OPENER_AT(name)                                                     \
    int name(int folder, const char *path, int flags, ...) {                \
        va_list a;                                                          \
        va_start(a, flags);                                                 \
        mode_t mode = va_arg(a, mode_t);                                    \
        va_end(a);                                                          \
        int todo = flags & (O_CREAT | O_TRUNC) ? event_of("open", folder, path, 0) : GO; \
        THEN(REAL(name)(folder, path, flags, mode))                         \
    }
OPENER(open)
OPENER(open64)
OPENER_AT(openat)
OPENER_AT(openat64)

#define HALF(n) (todo == DO_AND_DIE ? (n) / 2 : (n))

ssize_t write(int fd, const void *buf, size_t n) {
    int todo = event_fd("write", fd, 1);
    if (todo == FAIL) FULL_DISK
    THEN(REAL(write)(fd, buf, HALF(n)))
}
ssize_t pwrite(int fd, const void *buf, size_t n, off_t at) {
    int todo = event_fd("write", fd, 1);
    if (todo == FAIL) FULL_DISK
    THEN(REAL(pwrite)(fd, buf, HALF(n), at))
}
ssize_t pwrite64(int fd, const void *buf, size_t n, off64_t at) {
    int todo = event_fd("write", fd, 1);
    if (todo == FAIL) FULL_DISK
    THEN(REAL(pwrite64)(fd, buf, HALF(n), at))
}
ssize_t writev(int fd, const struct iovec *v, int n) {
    int todo = event_fd("write", fd, 1);
    if (todo == FAIL) FULL_DISK
    THEN(REAL(writev)(fd, v, HALF(n)))
}
ssize_t sendfile(int out, int in, off_t *at, size_t n) {
    int todo = event_fd("write", out, 1);
    if (todo == FAIL) FULL_DISK
    THEN(((ssize_t (*)(int, int, off_t *, size_t))real("sendfile"))(out, in, at, HALF(n)))
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t n) {
    int todo = event_fd("write", out, 1);
    if (todo == FAIL) FULL_DISK
    THEN(((ssize_t (*)(int, int, off64_t *, size_t))real("sendfile64"))(out, in, at, HALF(n)))
}
ssize_t copy_file_range(int in, off64_t *a, int out, off64_t *b, size_t n, unsigned flags) {
    int todo = event_fd("write", out, 1);
    if (todo == FAIL) FULL_DISK
    THEN(REAL(copy_file_range)(in, a, out, b, HALF(n), flags))
}
size_t fwrite(const void *buf, size_t size, size_t n, FILE *f) {
    int todo = event_fd("write", fileno(f), 1);
    if (todo == FAIL) {
        errno = ENOSPC;
        return 0;
    }
    size_t r = REAL(fwrite)(buf, size, HALF(n), f);
    if (todo == DO_AND_DIE) {
        fflush(f);
        die();
    }
    return r;
}
int ftruncate(int fd, off_t n) {
    int todo = event_fd("truncate", fd, 0);
    THEN(REAL(ftruncate)(fd, n))
}
int ftruncate64(int fd, off64_t n) {
    int todo = event_fd("truncate", fd, 0);
    THEN(REAL(ftruncate64)(fd, n))
}
int mkdir(const char *path, mode_t mode) {
    int todo = event_of("mkdir", AT_FDCWD, path, 1);
    if (todo == FAIL) FULL_DISK
    THEN(REAL(mkdir)(path, mode))
}
int mkdirat(int folder, const char *path, mode_t mode) {
    int todo = event_of("mkdir", folder, path, 1);
    if (todo == FAIL) FULL_DISK
    THEN(REAL(mkdirat)(folder, path, mode))
}
int rename(const char *a, const char *b) {
    int todo = event_of("rename", AT_FDCWD, b, 0);
    THEN(REAL(rename)(a, b))
}
int renameat(int d, const char *a, int e, const char *b) {
    int todo = event_of("rename", e, b, 0);
    THEN(REAL(renameat)(d, a, e, b))
}
int renameat2(int d, const char *a, int e, const char *b, unsigned flags) {
    int todo = event_of("rename", e, b, 0);
    THEN(REAL(renameat2)(d, a, e, b, flags))
}
int unlink(const char *path) {
    int todo = event_of("unlink", AT_FDCWD, path, 0);
    THEN(REAL(unlink)(path))
}
int unlinkat(int folder, const char *path, int flags) {
    int todo = event_of("unlink", folder, path, 0);
    THEN(REAL(unlinkat)(folder, path, flags))
}
int rmdir(const char *path) {
    int todo = event_of("rmdir", AT_FDCWD, path, 0);
    THEN(REAL(rmdir)(path))
}
int symlink(const char *a, const char *b) {
    int todo = event_of("link", AT_FDCWD, b, 0);
    THEN(REAL(symlink)(a, b))
}
