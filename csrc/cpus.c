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

/* Whether a list of controllers, as "cpu,cpuacct", is that of version 2 (empty) or has "cpu". */
static bool is_wanted(const char *controllers, bool v1) {
    if (!v1) return !*controllers;
    for (size_t n; *controllers; controllers += n + (controllers[n] == ',')) {
        n = strcspn(controllers, ",");
        if (n == 3 && !strncmp(controllers, "cpu", n)) return true;
    }
    return false;
}

enum { PATH = 512 };

/* The process's group among lines "number:controllers:path"; empty if there is none. */
static void find_group(const char *own, bool v1, char group[PATH]) {
    char line[PATH];
    group[0] = 0;
    FILE *file = fopen(own, "r");
    while (file && !group[0] && fgets(line, sizeof line, file)) {
        char *controllers = strchr(line, ':'), *path = NULL;
        if (controllers) path = strchr(controllers + 1, ':');
        if (!path) continue;
        *path++ = 0;
        path[strcspn(path, "\n")] = 0;
        if (is_wanted(controllers + 1, v1)) memcpy(group, path, strlen(path) + 1);
    }
    if (file) fclose(file);
}

/* What a group may use, in CPUs; 0: as much as it likes. */
static double quota_of_group(const char *folder, bool v1) {
    char line[128], more[64];
    double quota = 0, period = 0;
    if (v1) {
        read_line(folder, "cpu.cfs_quota_us", line, sizeof line);
        read_line(folder, "cpu.cfs_period_us", more, sizeof more);
        quota = atof(line), period = atof(more);
    } else {
        read_line(folder, "cpu.max", line, sizeof line);
        if (sscanf(line, "%lf %lf", &quota, &period) != 2) return 0;
    }
    return quota > 0 && period > 0 ? quota / period : 0;
}

/* The least of the process's group and of all above it. A container may see its own group as the
 * root: then the folders of the others are not there. */
static double least_quota(const char *own, const char *root, bool v1) {
    char folder[1024], group[PATH];
    double least = 0;
    find_group(own, v1, group);
    for (;;) {
        if (snprintf(folder, sizeof folder, "%s%s", root, group) < (int)sizeof folder) {
            const double quota = quota_of_group(folder, v1);
            if (quota > 0 && (least == 0 || quota < least)) least = quota;
        }
        char *end = strrchr(group, '/');
        if (!end) return least;
        *end = 0;
    }
}

double fn_cgroup_quota(const char *own, const char *root) {
    char cpu[1024];
    const double quota = least_quota(own, root, false);
    if (quota > 0 || snprintf(cpu, sizeof cpu, "%s/cpu", root) >= (int)sizeof cpu) return quota;
    return least_quota(own, cpu, true);
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
