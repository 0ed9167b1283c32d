/* Loaded before the C library: makes calls fail, be short or falsely succeed, from a given one on. Armed by shim_arm. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

enum { FAIL, SHORT, LIE };

static volatile int armed, mode, error_number;
static volatile long counted, first, how_many;
/* Seconds by which the wall clock is shifted; how often it was read. */
static struct { volatile long shift, asked; } no_clock, *the_clock = &no_clock;
static char prefix[4096];
static char last[64];

void shim_arm(const char *where, int how, int error, long from, long many) {
    strncpy(prefix, where, sizeof prefix - 1);
    mode = how; error_number = error; first = from; how_many = many; counted = 0; armed = 1;
}
void shim_disarm(void) { armed = 0; }
long shim_counted(void) { return counted; }
const char *shim_last(void) { return last; }

/* Whether this call is one of those that go wrong; counts only calls on paths with the prefix. */
static int struck(const char *name, const char *path) {
    if (!armed || !path || strncmp(path, prefix, strlen(prefix)) != 0) return 0;
    long number = __atomic_fetch_add(&counted, 1, __ATOMIC_SEQ_CST);
    if (number < first || number >= first + how_many) return 0;
    strncpy(last, name, sizeof last - 1);
    return 1;
}

static int struck_open(const char *name, int descriptor) {
    char link[64], path[4096];
    if (!armed) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return struck(name, path);
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

/* FAIL returns the error. LIE returns success and does nothing. SHORT shortens reads and writes; other calls do their
   work and return the error. */
#define PLAIN(name, parameters, arguments, hit) \
    int name parameters { \
        static int (*real) parameters; \
        if (!real) real = (int (*) parameters)dlsym(RTLD_NEXT, #name); \
        if (hit) { \
            if (mode == LIE) return 0; \
            if (mode == SHORT) (void)real arguments; \
            errno = error_number; return -1; \
        } \
        return real arguments; \
    }

PLAIN(fsync, (int fd), (fd), struck_open("fsync", fd))
PLAIN(fdatasync, (int fd), (fd), struck_open("fdatasync", fd))
PLAIN(ftruncate, (int fd, off_t size), (fd, size), struck_open("ftruncate", fd))
PLAIN(ftruncate64, (int fd, off64_t size), (fd, size), struck_open("ftruncate", fd))
PLAIN(rename, (const char *from, const char *to), (from, to), struck("rename", to))
PLAIN(symlink, (const char *what, const char *path), (what, path), struck("symlink", path))
PLAIN(unlink, (const char *path), (path), struck("unlink", path))
PLAIN(rmdir, (const char *path), (path), struck("rmdir", path))
PLAIN(mkdir, (const char *path, mode_t bits), (path, bits), struck("mkdir", path))
PLAIN(flock, (int fd, int what), (fd, what), mode != LIE && struck_open("flock", fd))

int close(int fd) {
    REAL(int, close, int);
    if (struck_open("close", fd) && mode != LIE) { (void)real(fd); errno = error_number; return -1; }
    return real(fd);
}

static int allocate(int (*real)(int, off64_t, off64_t), int fd, off64_t from, off64_t size) {
    if (struck_open("posix_fallocate", fd)) return mode == LIE ? 0 : error_number;
    return real(fd, from, size);
}
int posix_fallocate(int fd, off_t from, off_t size) {
    REAL(int, posix_fallocate, int, off64_t, off64_t);
    return allocate(real, fd, from, size);
}
int posix_fallocate64(int fd, off64_t from, off64_t size) {
    REAL(int, posix_fallocate64, int, off64_t, off64_t);
    return allocate(real, fd, from, size);
}

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, write, int, const void *, size_t);
    if (struck_open("write", fd)) {
        if (mode == LIE) return (ssize_t)size;
        if (mode == SHORT && size > 1) return real(fd, data, size / 2);
        errno = error_number; return -1;
    }
    return real(fd, data, size);
}

static ssize_t reading(ssize_t got, size_t size, int hit, void *data) {
    (void)data;
    if (!hit) return got;
    if (mode == SHORT) return got;
    (void)size;
    errno = error_number; return -1;
}
ssize_t read(int fd, void *data, size_t size) {
    REAL(ssize_t, read, int, void *, size_t);
    if (mode != LIE && struck_open("read", fd))
        return mode == SHORT && size > 1 ? real(fd, data, size / 2) : reading(0, size, 1, data);
    return real(fd, data, size);
}
ssize_t pread64(int fd, void *data, size_t size, off64_t from) {
    REAL(ssize_t, pread64, int, void *, size_t, off64_t);
    if (mode != LIE && struck_open("pread", fd))
        return mode == SHORT && size > 1 ? real(fd, data, size / 2, from) : reading(0, size, 1, data);
    return real(fd, data, size, from);
}

static int opening(const char *path) { return mode == FAIL && struck("open", path); }
int open(const char *path, int flags, ...) {
    REAL(int, open, const char *, int, ...);
    va_list rest; va_start(rest, flags); mode_t bits = va_arg(rest, mode_t); va_end(rest);
    if (opening(path)) { errno = error_number; return -1; }
    return real(path, flags, bits);
}
int open64(const char *path, int flags, ...) {
    REAL(int, open64, const char *, int, ...);
    va_list rest; va_start(rest, flags); mode_t bits = va_arg(rest, mode_t); va_end(rest);
    if (opening(path)) { errno = error_number; return -1; }
    return real(path, flags, bits);
}

/* The shift is set from outside, through a file that is mapped by all processes under test. */
__attribute__((constructor)) static void find_clock(void) {
    const char *path = getenv("SHIM_CLOCK");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof *the_clock, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED) the_clock = mapped;
    close(fd);
}

static long shifted(void) {
    __atomic_fetch_add(&the_clock->asked, 1, __ATOMIC_SEQ_CST);
    return the_clock->shift;
}
int clock_gettime(clockid_t which, struct timespec *now) {
    REAL(int, clock_gettime, clockid_t, struct timespec *);
    int code = real(which, now);
    if (!code && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) now->tv_sec += shifted();
    return code;
}
int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    REAL(int, gettimeofday, struct timeval *, void *);
    int code = real(now, zone);
    if (!code) now->tv_sec += shifted();
    return code;
}
time_t time(time_t *where) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (where) *where = now.tv_sec;
    return now.tv_sec;
}
