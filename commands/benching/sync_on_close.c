/* Preloaded into a peer that syncs nothing: a file that was written is synced when it is closed, and its folder. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
int fclose(FILE *stream) {
    static int (*real)(FILE *);
    if (!real) real = dlsym(RTLD_NEXT, "fclose");
    int fd = stream ? fileno(stream) : -1;
    struct stat found;
    int flags = fd >= 0 ? fcntl(fd, F_GETFL) : -1;
    if (flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && !fstat(fd, &found) && S_ISREG(found.st_mode)) {
        char link[64], path[PATH_MAX];
        fflush(stream);
        fsync(fd);
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = readlink(link, path, sizeof path - 1);
        if (length > 0) {
            path[length] = 0;
            int folder = open(dirname(path), O_RDONLY | O_DIRECTORY);
            if (folder >= 0) { fsync(folder); close(folder); }
        }
    }
    return real(stream);
}
