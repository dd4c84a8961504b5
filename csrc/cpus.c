/* cpus.c - how many processors this process may use: its CPU affinity, and what the CPU quotas of
 * its control groups (version 2, or 1) pay for.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "parallel.h"

enum { READ_AGAIN_NS = 2000000000 };

/* The first line of the file folder/name, or an empty text. */
static void read_line(const char *folder, const char *name, char *line, int size) {
    char path[1024];
    line[0] = 0;
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path) return;
    FILE *file = fopen(path, "r");
    if (!file) return;
    if (!fgets(line, size, file)) line[0] = 0;
    fclose(file);
}

/* Version 2: "quota period" of the process's group and of all above it; the least counts. */
static double quota_v2(const char *own, const char *root) {
    char line[512], folder[1024], group[512] = "";
    double least = 0, quota, period;
    FILE *file = fopen(own, "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "0::%511s", group) == 1) break;
    if (file) fclose(file);
    for (;;) {
        if (snprintf(folder, sizeof folder, "%s%s", root, group) < (int)sizeof folder) {
            read_line(folder, "cpu.max", line, sizeof line);
            if (sscanf(line, "%lf %lf", &quota, &period) == 2 && quota > 0 && period > 0 &&
                (least == 0 || quota / period < least))
                least = quota / period;
        }
        char *end = strrchr(group, '/');
        if (!end) return least;
        *end = 0;
    }
}

static double quota_v1(const char *root) {
    char quota[64], period[64];
    read_line(root, "cpu/cpu.cfs_quota_us", quota, sizeof quota);
    read_line(root, "cpu/cpu.cfs_period_us", period, sizeof period);
    return atof(quota) > 0 && atof(period) > 0 ? atof(quota) / atof(period) : 0;
}

double fn_cgroup_quota(const char *own, const char *root) {
    const double quota = quota_v2(own, root);
    return quota > 0 ? quota : quota_v1(root);
}

int fn_cpus_available(const char **why) {
    static atomic_ullong read_at;
    static _Atomic double quota;
    const uint64_t now = fn_now_ns();
    if (!atomic_load(&read_at) || now - atomic_load(&read_at) > READ_AGAIN_NS) {
        atomic_store(&quota, fn_cgroup_quota("/proc/self/cgroup", "/sys/fs/cgroup"));
        atomic_store(&read_at, now);
    }
    int cpus = 1;
    const char *reason = "CPU affinity";
#ifdef __linux__
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set)) cpus = CPU_COUNT(&set);
#endif
    const double limit = atomic_load(&quota);
    if (limit > 0 && limit < cpus) {
        cpus = limit < 1 ? 1 : (int)limit;
        reason = "cgroup CPU quota";
    }
    if (why) *why = reason;
    return cpus;
}
