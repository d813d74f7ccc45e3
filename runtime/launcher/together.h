/* The launches of a list on a CPU, one after another, by all threads in one go. A thread that takes part takes shares of the blocks of
 * the launch under way until there are none left, then waits for those that have taken some and are not done with them. The
 * thread that ends the last block begins the next launch. So nothing waits for a thread that has not come. As in
 * runtime/src/host/together.rs. */

#define TOGETHER 16 /* the most launches that are gone through in one go */
#define PARTS 32    /* of the blocks that are left, for each thread, of which a share is one: blocks have unequal work */
#define SPINS 128   /* how often a thread looks whether the others are done before it lets other threads have its processor */

typedef struct {
    _Alignas(128) uint64_t blocks; /* set when it begins */
    _Atomic uint64_t next; /* the first block that is in no thread's hands */
    _Atomic uint64_t done; /* blocks that have ended */
} launched;

typedef struct {
    const batch *r;
    const moec_step *steps;
    uint32_t count;
    uint64_t threads;
    _Atomic uint32_t under_way; /* the launch whose blocks are handed out; `count` where all have ended */
    launched of[TOGETHER];
} together;

static void spin(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* The blocks of a launch that have work: those before it have ended. */
static uint64_t working_blocks(const batch *r, const moec_step *step) {
    uint64_t most = (uint64_t)r->values[step->grid];
    int32_t count;
    if (step->counted == NONE) return most;
    memcpy(&count, buffer(r, &tables.args[step->args + step->counted]), sizeof count);
    uint64_t each = (uint64_t)r->values[step->each];
    return count <= 0 ? 0 : each > most / (uint64_t)count ? most : each * (uint64_t)count;
}

/* Says how many blocks a launch has, before which all have ended. */
static uint64_t count_blocks(together *all, uint32_t at) {
    return all->of[at].blocks = working_blocks(all->r, &all->steps[at]);
}

/* Takes a share of the blocks that are left, the larger the more there are; 0: none is left. */
static uint64_t take(together *all, launched *of, uint64_t *begin) {
    uint64_t parts = all->threads * PARTS, share;
    *begin = atomic_load_explicit(&of->next, memory_order_relaxed);
    do {
        if (*begin >= of->blocks) return 0;
        uint64_t left = of->blocks - *begin;
        share = left / parts + (left % parts != 0);
    } while (!atomic_compare_exchange_weak_explicit(&of->next, begin, *begin + share, memory_order_relaxed, memory_order_relaxed));
    return share;
}

/* Runs blocks of a launch until there are none left; whether one of them was the last to end. */
static int run_shares(together *all, uint32_t at) {
    launched *of = &all->of[at];
    const moec_step *step = &all->steps[at];
    moec_function function = tables.functions[all->r->handle->target->kernels + step->kernel];
    uint64_t words[MAX_ARGS];
    for (int first = 1;; first = 0) {
        uint64_t begin, share = take(all, of, &begin);
        if (share == 0) return 0;
        for (uint32_t i = 0; first && i < step->num_args; i++) words[i] = word(all->r, &tables.args[step->args + i]);
        function(words, begin, begin + share);
        /* The thread that ends the last block has seen what all others wrote. */
        if (atomic_fetch_add_explicit(&of->done, share, memory_order_acq_rel) + share == of->blocks) return 1;
    }
}

/* Begins the first launch from `at` on that has several blocks; runs those before it, whose one block the others would only wait for.
 * All before `at` have ended. */
static void begin_launch(together *all, uint32_t at) {
    for (; at < all->count && count_blocks(all, at) <= 1; at++) run_shares(all, at);
    /* With it what is stored above, and what the blocks before wrote. */
    atomic_store_explicit(&all->under_way, at, memory_order_release);
}

static void go_through(void *arg, uint64_t begin, uint64_t end) {
    together *all = arg;
    (void)begin, (void)end;
    for (;;) {
        uint32_t at = atomic_load_explicit(&all->under_way, memory_order_acquire);
        if (at >= all->count) return;
        if (run_shares(all, at)) begin_launch(all, at + 1);
        for (int looks = 1; atomic_load_explicit(&all->under_way, memory_order_acquire) == at; looks++) {
            if (looks >= SPINS) sched_yield();
            else spin();
        }
    }
}

/* At most TOGETHER launches. */
static moec_status launch_together(const batch *r, const moec_step *steps, uint32_t count) {
    together all = {.r = r, .steps = steps, .count = count, .threads = r->handle->num_threads};
    int64_t most = 0;
    for (uint32_t i = 0; i < count; i++) most = r->values[steps[i].grid] > most ? r->values[steps[i].grid] : most;
    if (most == 0) return MOEC_OK;
    if (most == 1) {
        begin_launch(&all, 0);
        return MOEC_OK;
    }
    /* The first launch is published whatever it has: meanwhile threads wake up. */
    if (count_blocks(&all, 0) == 0) begin_launch(&all, 1);
    uint64_t calls = all.threads < (uint64_t)most ? all.threads : (uint64_t)most;
    r->handle->parallel_for(r->handle->parallel_for_user, calls, go_through, &all);
    /* Each call did all that others left to it, and has returned. */
    if (atomic_load_explicit(&all.under_way, memory_order_acquire) == count) return MOEC_OK;
    return fail(MOEC_E_ARG, "parallel_for called none of %" PRIu64 " numbers", calls);
}

static moec_status launch_cpu(const batch *r, const moec_step *steps, uint32_t count) {
    moec_status status = MOEC_OK;
    for (uint32_t from = 0; from < count && !status; from += TOGETHER)
        status = launch_together(r, steps + from, count - from < TOGETHER ? count - from : TOGETHER);
    return status;
}
