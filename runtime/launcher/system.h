#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "moec_abi.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef MOEC_EXPORT
#define MOEC_EXPORT __attribute__((visibility("default")))
#endif
#define MOEC_HIDDEN __attribute__((visibility("hidden")))
