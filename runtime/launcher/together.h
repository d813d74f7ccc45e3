/* The launches of a list on a CPU, one after another, by all threads in one go. A thread that takes part takes shares of the blocks of
 * the launch under way until there are none left, then waits for those that have taken some and are not done with them. The
 * thread that ends the last block begins the next launch. So nothing waits for a thread that has not come. A launch that follows the one
 * before it is open from when that begins: a thread that finds no more blocks of the one takes shares of the other, and runs each when
 * the blocks have ended that it needs. As in runtime/src/host/together.rs. */

#define TOGETHER 16 /* the most launches that are gone through in one go */
#define PARTS 32    /* of the blocks that are left, for each thread, of which a share is one: blocks have unequal work */
#define SPINS 128   /* how often a thread looks whether the others are done before it lets other threads have its processor */

typedef struct {
    _Alignas(128) _Atomic uint64_t blocks; /* set when it is opened */
    _Atomic int follows;   /* the one before it, which has several blocks */
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
    _Atomic uint32_t came; /* threads that have come */
    /* Of each thread, one more than a block of the launch under way: all that it has in hand and all that it will take are not before that
     * block. 0: it has none, and takes no more. */
    _Atomic uint64_t hands[MAX_THREADS];
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

/* Says how many blocks a launch has, before which all have ended but for one that it follows. */
static uint64_t count_blocks(together *all, uint32_t at) {
    uint64_t blocks = working_blocks(all->r, &all->steps[at]);
    atomic_store_explicit(&all->of[at].blocks, blocks, memory_order_relaxed);
    return blocks;
}

/* Blocks for one that is counted, of the launch before and of this one; 0: it does not follow that. */
static int follows(const together *all, uint32_t at, uint64_t each[2]) {
    const moec_step *step = &all->steps[at];
    if (at == 0 || !step->follows) return 0;
    for (int i = 0; i < 2; i++) each[i] = (uint64_t)all->r->values[step[i - 1].each];
    return each[0] > 0 && each[1] > 0;
}

static void pass_time(int *looks) {
    if (++*looks >= SPINS) sched_yield();
    else spin();
}

/* Waits until blocks before `end` of a launch have ended. */
static void wait_for(together *all, uint32_t at, uint64_t end) {
    launched *of = &all->of[at];
    for (int looks = 0;; pass_time(&looks)) {
        uint64_t blocks = atomic_load_explicit(&of->blocks, memory_order_relaxed);
        if (atomic_load_explicit(&of->done, memory_order_acquire) == blocks) return;
        /* A thread that has taken a block has come, and has said before what is in hand. */
        if (atomic_load_explicit(&of->next, memory_order_acquire) < end) continue;
        uint32_t came = atomic_load_explicit(&all->came, memory_order_relaxed), busy = 0;
        for (uint32_t i = 0; i < MAX_THREADS && i < came; i++) {
            uint64_t hand = atomic_load_explicit(&all->hands[i], memory_order_acquire);
            busy += 0 < hand && hand <= end;
        }
        /* What is not in hand has ended, and all that it wrote is seen. */
        if (!busy) return;
    }
}

/* Takes a share of the blocks that are left, the larger the more there are; 0: none is left. */
static uint64_t take(together *all, launched *of, _Atomic uint64_t *hand, uint64_t *begin) {
    uint64_t parts = all->threads * PARTS, blocks = atomic_load_explicit(&of->blocks, memory_order_relaxed), share;
    *begin = atomic_load_explicit(&of->next, memory_order_relaxed);
    /* Before a block is taken: it is not before this one. */
    if (hand) atomic_store_explicit(hand, 1 + *begin, memory_order_release);
    do {
        uint64_t left = *begin < blocks ? blocks - *begin : 0;
        share = left / parts + (left % parts != 0);
        if (share == 0) break;
    } while (!atomic_compare_exchange_weak_explicit(&of->next, begin, *begin + share, memory_order_release, memory_order_relaxed));
    if (hand) atomic_store_explicit(hand, share ? 1 + *begin : 0, memory_order_release);
    return share;
}

/* Runs blocks of a launch until there are none left; whether one of them was the last to end. `hand`: the thread's, where the launch is
 * followed. */
static int run_shares(together *all, uint32_t at, _Atomic uint64_t *hand) {
    launched *of = &all->of[at];
    const moec_step *step = &all->steps[at];
    moec_function function = tables.functions[all->r->handle->target->kernels + step->kernel];
    int waits = atomic_load_explicit(&of->follows, memory_order_relaxed), ended = 0;
    uint64_t words[MAX_ARGS], begin, share, each[2];
    for (int first = 1; (share = take(all, of, hand, &begin)); first = 0) {
        for (uint32_t i = 0; first && i < step->num_args; i++) words[i] = word(all->r, &tables.args[step->args + i]);
        uint64_t end = begin + share;
        if (waits && follows(all, at, each)) wait_for(all, at - 1, (end / each[1] + (end % each[1] != 0)) * each[0]);
        function(words, begin, end);
        /* The thread that ends the last block has seen what all others wrote. */
        uint64_t done = atomic_fetch_add_explicit(&of->done, share, memory_order_acq_rel) + share;
        ended = done == atomic_load_explicit(&of->blocks, memory_order_relaxed);
    }
    return ended;
}

/* Opens the launch that follows one which begins. */
static void open_follower(together *all, uint32_t at) {
    uint64_t each[2];
    if (at + 1 >= all->count || !follows(all, at + 1, each)) return;
    count_blocks(all, at + 1);
    atomic_store_explicit(&all->of[at + 1].follows, 1, memory_order_relaxed);
}

/* Begins the first launch from `at` on that has several blocks; runs those before it, whose one block the others would only wait for.
 * All before `at` have ended. */
static void begin_launch(together *all, uint32_t at) {
    for (; at < all->count; at++) {
        int is_open = atomic_load_explicit(&all->of[at].follows, memory_order_relaxed);
        uint64_t blocks = is_open ? atomic_load_explicit(&all->of[at].blocks, memory_order_relaxed) : count_blocks(all, at);
        /* Of one that is open others may have taken the blocks. */
        if (blocks > !is_open) break;
        run_shares(all, at, NULL);
    }
    open_follower(all, at);
    /* With it what is stored above, and what the blocks before wrote. A launch that followed may have ended already. */
    uint32_t now = atomic_load_explicit(&all->under_way, memory_order_relaxed);
    while (now < at && !atomic_compare_exchange_weak_explicit(&all->under_way, &now, at, memory_order_acq_rel, memory_order_relaxed)) {}
}

static void go_through(void *arg, uint64_t begin, uint64_t end) {
    together *all = arg;
    (void)begin, (void)end;
    uint32_t number = atomic_fetch_add_explicit(&all->came, 1, memory_order_relaxed);
    /* There are as many as threads; others that a caller sends find all in hand. */
    if (number >= MAX_THREADS) return;
    for (;;) {
        uint32_t at = atomic_load_explicit(&all->under_way, memory_order_acquire), next = at + 1;
        if (at >= all->count) return;
        int is_followed = next < all->count && atomic_load_explicit(&all->of[next].follows, memory_order_relaxed);
        if (run_shares(all, at, is_followed ? &all->hands[number] : NULL)) begin_launch(all, next);
        else if (is_followed && run_shares(all, next, NULL)) begin_launch(all, next + 1);
        for (int looks = 0; atomic_load_explicit(&all->under_way, memory_order_acquire) == at;) pass_time(&looks);
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
    else open_follower(&all, 0);
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
