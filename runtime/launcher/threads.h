/* The library's own threads. A caller publishes a job, works on it itself, and is helped by the threads that are free. Nothing is
 * allocated for it, no lock is taken, and no thread waits for another to wake up. As in runtime/src/host/threads.rs. */

#define SLOTS 64      /* jobs that can be published at once; a caller beyond them works alone */
#define LOOKS 4096    /* how often a thread looks for work before it sleeps */
#define WOKEN 2       /* sleepers that a caller wakes, and each that was woken in turn */
#define MAX_THREADS 1024

typedef struct {
    moec_body body;
    void *arg;
    uint64_t count;
    _Atomic uint64_t next; /* the next number that body was not called with */
} job;

typedef struct {
    _Atomic int taken;   /* a caller has it, until no thread looks at its job any more */
    _Atomic(job *) job;  /* null where none is published */
    _Atomic uint32_t users;
} slot;

typedef struct {
    struct threads *all;
    pthread_t thread;
    sem_t wakes;
    _Atomic int sleeps;
} sleeper;

typedef struct threads {
    slot slots[SLOTS];
    _Atomic int ends;
    _Atomic uint32_t count; /* of sleepers */
    sleeper *sleepers;
} threads;

static int has_work(job *j) { return atomic_load_explicit(&j->next, memory_order_relaxed) < j->count; }

static void work(job *j) {
    for (;;) {
        uint64_t number = atomic_fetch_add_explicit(&j->next, 1, memory_order_relaxed);
        if (number >= j->count) return;
        j->body(j->arg, number, number + 1);
    }
}

static void wake(threads *all) {
    uint32_t woken = 0;
    for (uint32_t i = 0; i < all->count && woken < WOKEN; i++)
        if (atomic_load(&all->sleepers[i].sleeps) && atomic_exchange(&all->sleepers[i].sleeps, 0)) {
            sem_post(&all->sleepers[i].wakes);
            woken++;
        }
}

/* Looks at the job of a slot, and helps with it if `help`; whether there was work. */
static int look(threads *all, slot *s, int help) {
    if (!atomic_load(&s->job)) return 0;
    atomic_fetch_add(&s->users, 1);
    /* Its caller took the job back after this load, in the one order of all these operations, so that it sees this user. */
    job *j = atomic_load(&s->job);
    int found = j && has_work(j);
    if (found && help) {
        wake(all);
        work(j);
    }
    atomic_fetch_sub(&s->users, 1);
    return found;
}

static int look_at_all(threads *all, int help) {
    int found = 0;
    for (uint32_t i = 0; i < SLOTS && !found; i++) found = look(all, &all->slots[i], help);
    return found;
}

static void *serve(void *me) {
    sleeper *own = me;
    threads *all = own->all;
    for (int looks = 0; !atomic_load(&all->ends);) {
        if (look_at_all(all, 1)) {
            looks = 0;
        } else if (looks < LOOKS) {
            looks++;
            sched_yield();
        } else {
            /* A job that was published before this is seen below; the caller of a later one sees the sleeper. */
            atomic_store(&own->sleeps, 1);
            if (look_at_all(all, 0) || atomic_load(&all->ends)) {
                /* Woken in between: what was posted must be taken. */
                if (!atomic_exchange(&own->sleeps, 0)) while (sem_wait(&own->wakes)) continue;
            } else {
                while (sem_wait(&own->wakes)) continue;
            }
            looks = 0;
        }
    }
    return NULL;
}

/* Calls body with each number below count. */
static void parallel_for(void *user, uint64_t count, moec_body body, void *arg) {
    threads *all = user;
    job j = {body, arg, count, 0};
    slot *s = NULL;
    for (uint32_t i = 0; all->count > 0 && i < SLOTS && !s; i++)
        if (!atomic_load_explicit(&all->slots[i].taken, memory_order_relaxed) &&
            !atomic_exchange_explicit(&all->slots[i].taken, 1, memory_order_acquire))
            s = &all->slots[i];
    if (!s) {
        body(arg, 0, count);
        return;
    }
    atomic_store(&s->job, &j);
    wake(all);
    work(&j);
    /* A thread that counts itself among the users after this finds no job; every other is waited for. */
    atomic_store(&s->job, NULL);
    while (atomic_load(&s->users) != 0) sched_yield();
    atomic_store_explicit(&s->taken, 0, memory_order_release);
}

static void stop_threads(threads *all) {
    if (!all) return;
    atomic_store(&all->ends, 1);
    for (uint32_t i = 0; i < all->count; i++) sem_post(&all->sleepers[i].wakes);
    for (uint32_t i = 0; i < all->count; i++) {
        pthread_join(all->sleepers[i].thread, NULL);
        sem_destroy(&all->sleepers[i].wakes);
    }
    free(all->sleepers);
    free(all);
}

/* The threads that are asked for, the caller's own included; 0: the CPUs that the process may use. */
static moec_status thread_count(uint32_t asked, uint32_t *count) {
    cpu_set_t set;
    if (asked > MAX_THREADS) return fail(MOEC_E_ARG, "%u threads, at most %u", asked, MAX_THREADS);
    *count = asked ? asked : sched_getaffinity(0, sizeof set, &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
    return MOEC_OK;
}

/* As many threads, the caller's own included. */
static moec_status start_threads(uint32_t count, threads **out) {
    threads *all = calloc(1, sizeof *all);
    if (!all) return fail(MOEC_E_NOMEM, "out of host memory");
    *out = all;
    if (count <= 1) return MOEC_OK;
    all->sleepers = calloc(count - 1, sizeof *all->sleepers);
    if (!all->sleepers) return fail(MOEC_E_NOMEM, "out of host memory");
    for (uint32_t i = 0; i < count - 1; i++) {
        sleeper *own = &all->sleepers[i];
        own->all = all;
        sem_init(&own->wakes, 0, 0);
        int error = pthread_create(&own->thread, NULL, serve, own);
        if (error) {
            sem_destroy(&own->wakes);
            return fail(MOEC_E_NOMEM, "thread %u of %u cannot be started (error %d)", i + 1, count, error);
        }
        all->count = i + 1;
    }
    return MOEC_OK;
}
