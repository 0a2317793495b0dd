/* Keeps beside a folder what a power cut would leave of it: what was synced, and nothing else. For LD_PRELOAD.
 *
 * CUT_FROM is the folder, CUT_TO where its durable state lies: `data/INODE` is a file as it was at its last fsync, `names` says which names the
 * folder had at its own last fsync ("INODE NAME" a line). A file that was never synced is empty then. Both are replaced whole, before the call
 * that synced returns, so a process killed at any moment leaves a state that a disk could have.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void keep_file(int number, ino_t inode, const char *to) {
    char part[PATH_MAX], whole[PATH_MAX], source[64], block[65536];
    snprintf(part, sizeof part, "%s/data/part-%d", to, (int)getpid());
    snprintf(whole, sizeof whole, "%s/data/%lu", to, (unsigned long)inode);
    snprintf(source, sizeof source, "/proc/self/fd/%d", number);
    int out = open(part, O_CREAT | O_TRUNC | O_WRONLY, 0600), in = number;
    ssize_t size;
    off_t at = 0;
    if (pread(in, block, 1, 0) < 0) in = open(source, O_RDONLY);  /* it is open for writing only */
    for (; (size = pread(in, block, sizeof block, at)) > 0; at += size)
        if (write(out, block, size) != size) abort();
    if (in != number) close(in);  /* not for what SQLite has open: that would drop its locks */
    close(out);
    rename(part, whole);
}

static void keep_names(const char *folder, const char *to) {
    char part[PATH_MAX], whole[PATH_MAX];
    snprintf(part, sizeof part, "%s/names-%d", to, (int)getpid());
    snprintf(whole, sizeof whole, "%s/names", to);
    FILE *out = fopen(part, "w");
    DIR *names = opendir(folder);
    for (struct dirent *entry; (entry = readdir(names));)
        if (entry->d_name[0] != '.') fprintf(out, "%lu %s\n", (unsigned long)entry->d_ino, entry->d_name);
    closedir(names);
    fclose(out);
    rename(part, whole);
}

static void synced(int number) {
    const char *from = getenv("CUT_FROM"), *to = getenv("CUT_TO");
    char link[64], path[PATH_MAX] = "";
    struct stat about;
    if (!from || !to || fstat(number, &about)) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", number);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0 || strncmp(path, from, strlen(from))) return;
    pthread_mutex_lock(&lock);
    if (S_ISDIR(about.st_mode)) {
        if (!strcmp(path, from)) keep_names(from, to);
    } else {
        keep_file(number, about.st_ino, to);
    }
    pthread_mutex_unlock(&lock);
}

int fsync(int number) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    int done = real(number);
    if (!done) synced(number);
    return done;
}

int fdatasync(int number) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    int done = real(number);
    if (!done) synced(number);
    return done;
}
