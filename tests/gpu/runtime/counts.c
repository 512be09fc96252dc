// Counts by name, and the log: what the tests and nodes.py read.
#include "pretended.h"
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SLOTS 65536 // names are some thousands

typedef struct {
    char *name;
    Kind kind;
    long outside, captured;
} Count;

static Count counts[SLOTS];
static int order[SLOTS]; // slots in the order in which names came
static int known;
static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

void pretended_lock(void) { pthread_mutex_lock(&mutex); }

void pretended_unlock(void *unused) { pthread_mutex_unlock(&mutex); }

int pretended_name(Kind kind, const char *name) {
    HOLD_LOCK;
    uint32_t hash = 2166136261u;
    for (const char *letter = name; *letter; letter++)
        hash = (hash ^ (unsigned char)*letter) * 16777619u;
    int slot = (int)((hash ^ kind) % SLOTS);
    while (counts[slot].name && (counts[slot].kind != kind || strcmp(counts[slot].name, name)))
        slot = (slot + 1) % SLOTS;
    if (!counts[slot].name) {
        if (known == SLOTS - 1) {
            fprintf(stderr, "pretended GPU: too many names\n");
            abort();
        }
        counts[slot].name = strdup(name);
        counts[slot].kind = kind;
        order[known++] = slot;
    }
    return slot;
}

void pretended_count(int name, bool captured) {
    HOLD_LOCK;
    if (captured)
        counts[name].captured++;
    else
        counts[name].outside++;
}

// One line, written at once: a process that is killed, or leaves without running its exit handlers, loses nothing.
void pretended_log(const char *format, ...) {
    const char *file = getenv("PRETENDED_GPU_LOG");
    if (!file)
        return;
    char line[512];
    int length = snprintf(line, sizeof line, "%d\t", getpid());
    va_list values;
    va_start(values, format);
    length += vsnprintf(line + length, sizeof line - length - 1, format, values);
    va_end(values);
    if (length > (int)sizeof line - 2)
        length = sizeof line - 2;
    line[length++] = '\n';
    int target = open(file, O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (target < 0 || write(target, line, length) != length)
        fprintf(stderr, "pretended GPU: cannot write %s\n", file);
    if (target >= 0)
        close(target);
}

// --- for Python, by ctypes

void pretended_reset(void) {
    HOLD_LOCK;
    for (int index = 0; index < known; index++)
        counts[order[index]].outside = counts[order[index]].captured = 0;
}

const char *pretended_name_text(int name) { return counts[name].name; }

int pretended_name_kind(int name) { return counts[name].kind; }

// Write one line a name: kind, times outside captures, times captured, name.
int pretended_write(const char *path) {
    HOLD_LOCK;
    FILE *file = fopen(path, "w");
    if (!file)
        return -1;
    for (int index = 0; index < known; index++) {
        Count *count = &counts[order[index]];
        if (count->outside || count->captured)
            fprintf(file, "%d\t%ld\t%ld\t%s\n", count->kind, count->outside, count->captured, count->name);
    }
    return fclose(file);
}
