// Runs a kernel on the CPU: block by block, and thread by thread.
//
// Where threads of a block wait for each other, each has a stack of its own and they take turns; else they are calls in a loop.
#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <vector>

#include <ucontext.h>
#include <vector_types.h>

#include "emulator.h"

thread_local uint3 threadIdx, blockIdx;
thread_local dim3 blockDim, gridDim;

namespace emulator {

// What each thread of a block tells the others of its warp.
thread_local unsigned char (*exchange)[16];

namespace {

constexpr size_t STACK = 32 * 1024;
constexpr unsigned WARP = 32;

enum class State { Ready, AtBlock, AtWarp, Over };

// A thread of a block. It is begun once, and runs that thread of one block after the other: to begin is a call of the system, and to go on is not.
struct Turn {
    ucontext_t context;
    jmp_buf at;
    bool has_begun = false;
    State state = State::Ready;
    std::unique_ptr<char[]> stack{new char[STACK]};
};

thread_local jmp_buf failed, scheduler;
thread_local std::vector<std::unique_ptr<Turn>> turns;
thread_local unsigned at_turn;
thread_local const Kernel *running;
thread_local void **arguments;

std::map<std::string, const Kernel *> &kernels()
{
    // Never destroyed: streams run on when the program ends.
    static auto *all = new std::map<std::string, const Kernel *>;
    return *all;
}

void place(unsigned number)
{
    threadIdx.x = number % blockDim.x;
    threadIdx.y = number / blockDim.x % blockDim.y;
    threadIdx.z = number / blockDim.x / blockDim.y;
}

__attribute__((noinline)) void give_way(State state)
{
    Turn &turn = *turns[at_turn];
    turn.state = state;
    if (!_setjmp(turn.at))
        _longjmp(scheduler, 1);
}

__attribute__((noinline)) void go_on(Turn &turn)
{
    if (_setjmp(scheduler))
        return;
    if (turn.has_begun)
        _longjmp(turn.at, 1);
    turn.has_begun = true;
    setcontext(&turn.context);
}

void every_block()
{
    for (;;) {
        running->call(arguments);
        give_way(State::Over);
    }
}

// Whoever waits for threads of which all that are not over wait, too, goes on.
void release(unsigned first, unsigned end, State waiting)
{
    for (unsigned number = first; number < end; number++)
        if (turns[number]->state != waiting && turns[number]->state != State::Over)
            return;
    for (unsigned number = first; number < end; number++)
        if (turns[number]->state == waiting)
            turns[number]->state = State::Ready;
}

void another_turn()
{
    auto turn = std::make_unique<Turn>();
    getcontext(&turn->context);
    turn->context.uc_stack.ss_sp = turn->stack.get();
    turn->context.uc_stack.ss_size = STACK;
    makecontext(&turn->context, every_block, 0);
    turns.push_back(std::move(turn));
}

void cooperative_block(unsigned threads)
{
    for (unsigned number = 0; number < threads; number++)
        turns[number]->state = State::Ready;
    for (unsigned over = 0; over < threads;) {
        bool moved = false;
        over = 0;
        for (at_turn = 0; at_turn < threads; at_turn++) {
            Turn &turn = *turns[at_turn];
            if (turn.state == State::Ready) {
                moved = true;
                place(at_turn);
                go_on(turn);
            }
            over += turn.state == State::Over;
        }
        for (unsigned first = 0; first < threads; first += WARP)
            release(first, std::min(first + WARP, threads), State::AtWarp);
        release(0, threads, State::AtBlock);
        if (!moved) {
            std::fprintf(stderr, "cuda-emulator: threads of %s wait for each other for ever\n", running->name);
            std::abort();
        }
    }
}

__attribute__((noinline)) void all_blocks(unsigned threads)
{
    static thread_local std::vector<unsigned char> registers;
    if (running->is_cooperative) {
        while (turns.size() < threads)
            another_turn();
        registers.resize(std::max<size_t>(registers.size(), (threads + WARP) * sizeof *exchange));
        exchange = reinterpret_cast<unsigned char(*)[16]>(registers.data());
    }
    for (blockIdx.z = 0; blockIdx.z < gridDim.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < gridDim.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < gridDim.x; blockIdx.x++) {
                if (running->is_cooperative) {
                    cooperative_block(threads);
                    continue;
                }
                for (unsigned number = 0; number < threads; number++) {
                    place(number);
                    running->call(arguments);
                }
            }
}

} // namespace

unsigned thread_number() { return at_turn; }

namespace {

void wait_for_others(State where)
{
    if (!running->is_cooperative) {
        std::fprintf(stderr, "cuda-emulator: threads of %s wait for each other, which `build` does not know\n", running->name);
        std::abort();
    }
    give_way(where);
}

} // namespace

void wait_for_block() { wait_for_others(State::AtBlock); }

void wait_for_warp() { wait_for_others(State::AtWarp); }

void enlist(Kernel *kernel) { kernels()[kernel->name] = kernel; }

const Kernel *kernel_of(const std::string &name)
{
    auto found = kernels().find(name);
    return found == kernels().end() ? nullptr : found->second;
}

bool launch(const Kernel &kernel, const unsigned grid[3], const unsigned block[3], void **parameters)
{
    running = &kernel;
    arguments = parameters;
    gridDim = dim3(grid[0], grid[1], grid[2]);
    blockDim = dim3(block[0], block[1], block[2]);
    if (setjmp(failed)) {
        // Those that were about to go on are in the middle of what failed.
        turns.clear();
        return false;
    }
    all_blocks(block[0] * block[1] * block[2]);
    return true;
}

} // namespace emulator

// What `assert` of the C library calls: in a kernel it ends the kernel, as on a GPU, and not the process.
extern "C" __attribute__((visibility("hidden"), noreturn)) void __assert_fail(
    const char *condition, const char *file, unsigned line, const char *)
#if defined(__GLIBC__)
    noexcept(true)
#endif
{
    std::fprintf(stderr, "%s:%u: assertion `%s` failed in a kernel\n", file, line, condition);
    longjmp(emulator::failed, 1);
}
