// The scheduler of the fibers, and `launch_KERNEL` functions for Python. Built together with one kernel source:
//   g++ -DCUDA_ON_HOST -DKERNEL_SOURCE="march.cu" -DKERNELS="X(march_count, MarchCount) ..."
#include "cuda_on_host.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace host {
unsigned char *dynamic_shared;

namespace {
constexpr u32 STACK_BYTES = 64 * 1024;
enum class State { READY, AT_WARP, AT_BLOCK, DONE };
struct Fiber {
    void *stack_pointer;
    unsigned char *stack;
    State state;
};
struct Warp {
    u32 arrived, parity;
    Slot slots[2][32];
};
std::vector<Fiber> fibers;
std::vector<Warp> warps;
void *scheduler_stack_pointer;
u32 current, n_threads, block_arrived;
void (*body)(const void *);
const void *arguments;

// Saves the registers a callee must keep, swaps stacks, restores the other's. x86-64 only, as the machines that run it.
extern "C" void switch_stacks(void **save, void *load);
asm(R"(
.text
switch_stacks:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

void leave() { switch_stacks(&fibers[current].stack_pointer, scheduler_stack_pointer); }

void run_fiber() {
    body(arguments);
    fibers[current].state = State::DONE;
    leave();
}

void prepare(Fiber &fiber) {
    if (!fiber.stack) fiber.stack = (unsigned char *)aligned_alloc(64, STACK_BYTES);
    void **top = (void **)(fiber.stack + STACK_BYTES - 64);
    *--top = nullptr;  // where run_fiber would return to; also aligns the stack as a call does
    *--top = (void *)run_fiber;
    for (int i = 0; i < 6; i++) *--top = nullptr;
    fiber.stack_pointer = top;
    fiber.state = State::READY;
}

void resume(u32 thread) {
    current = thread;
    threadIdx.x = thread;
    switch_stacks(&scheduler_stack_pointer, fibers[thread].stack_pointer);
}

// Runs one block; false when its threads wait for each other for ever.
bool run_block() {
    for (u32 i = 0; i < n_threads; i++) prepare(fibers[i]);
    for (Warp &warp : warps) warp.arrived = warp.parity = 0;
    block_arrived = 0;
    while (true) {
        bool moved = false, done = true;
        for (u32 w = 0; w * 32 < n_threads; w++) {
            bool again = true;
            while (again) {  // a warp goes on until it waits for another one
                again = false;
                for (u32 i = w * 32; i < w * 32 + 32; i++) {
                    if (fibers[i].state != State::READY) continue;
                    resume(i);
                    moved = again = true;
                }
            }
            for (u32 i = w * 32; i < w * 32 + 32; i++) done = done && fibers[i].state == State::DONE;
        }
        if (done) return true;
        if (!moved) return false;
    }
}
}  // namespace

const Slot *meet_warp(const Slot &mine) {
    Warp &warp = warps[current / 32];
    const u32 parity = warp.parity, first = current & ~31u;
    warp.slots[parity][current & 31] = mine;
    if (++warp.arrived == 32) {
        warp.arrived = 0;
        warp.parity ^= 1;
        for (u32 i = first; i < first + 32; i++) fibers[i].state = State::READY;
    } else {
        fibers[current].state = State::AT_WARP;
        leave();
    }
    return warp.slots[parity];
}

void meet_block() {
    if (++block_arrived == n_threads) {
        block_arrived = 0;
        for (u32 i = 0; i < n_threads; i++) fibers[i].state = State::READY;
    } else {
        fibers[current].state = State::AT_BLOCK;
        leave();
    }
}

namespace {
struct HalfTable {
    float values[65536];
    HalfTable() {
        for (u32 bits = 0; bits < 65536; bits++) {
            const u32 exponent = bits >> 10 & 31, fraction = bits & 1023;
            double value = exponent ? std::ldexp(1024.0 + fraction, (int)exponent - 25) : std::ldexp(fraction, -24);
            if (exponent == 31) value = fraction ? NAN : INFINITY;
            values[bits] = (float)(bits >> 15 ? -value : value);
        }
    }
};
const HalfTable half_table;
}  // namespace

float half_to_float(u16 half) { return half_table.values[half]; }

// To the nearest, ties to even, as cvt.rn does; subnormal halves included.
u16 float_to_half(float value) {
    const u32 bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u;
    if (value != value) return 0x7fff;
    const float size = fabsf(value);
    if (size >= 65520.f) return (u16)(sign | 0x7c00u);
    int exponent;
    std::frexp(size, &exponent);
    const int step = exponent - 11 > -24 ? exponent - 11 : -24;
    const float units = std::nearbyint(std::ldexp(size, -step));  // exact but for this rounding
    const float rounded = std::ldexp(units, step);
    if (rounded == 0.f) return (u16)sign;
    if (rounded < 6.103515625e-05f) return (u16)(sign | (u32)std::ldexp(rounded, 24));
    std::frexp(rounded, &exponent);
    return (u16)(sign | (u32)(exponent + 14) << 10 | ((u32)std::ldexp(rounded, 11 - exponent) & 1023u));
}

namespace {
int launch(void (*kernel)(const void *), const void *given, u32 blocks, u32 threads, u32 shared_bytes) {
    if (threads % 32) return 2;
    body = kernel, arguments = given, n_threads = threads;
    blockDim.x = threads, gridDim.x = blocks;
    if (fibers.size() < threads) fibers.resize(threads, Fiber{nullptr, nullptr, State::DONE});
    warps.resize(threads / 32);
    dynamic_shared = (unsigned char *)aligned_alloc(64, (shared_bytes + 127) / 64 * 64);
    memset(dynamic_shared, 0xff, shared_bytes);  // NaN in every type: nothing may rely on cleared memory
    int result = 0;
    for (blockIdx.x = 0; blockIdx.x < blocks && !result; blockIdx.x++) result = run_block() ? 0 : 1;
    free(dynamic_shared);
    return result;
}
}  // namespace
}  // namespace host

#include KERNEL_SOURCE

#define X(kernel, Arguments)                                                                                        \
    extern "C" int launch_##kernel(const void *given, u32 blocks, u32 threads, u32 shared_bytes) {                  \
        return host::launch([](const void *p) { kernel(*(const Arguments *)p); }, given, blocks, threads, shared_bytes); \
    }
KERNELS
#undef X

#define SIZE(Arguments) sizeof(Arguments),
extern "C" const u32 structure_sizes[] = {
    SIZE(RayList) SIZE(Bits) SIZE(Lattice) SIZE(SampleList) SIZE(HashGrid) SIZE(FieldView) SIZE(MarchCount)
    SIZE(ScanCounts) SIZE(MarchWrite) SIZE(FieldForward) SIZE(FieldDensity) SIZE(StepLoss) SIZE(ListSeen)
    SIZE(FieldBackward) SIZE(ReduceNetworks) SIZE(GridBackward) SIZE(PackNetworks) SIZE(CastTable) SIZE(Adam)
    SIZE(AdamClock) SIZE(CountBad) SIZE(RenderFused) SIZE(OccRefresh) SIZE(OccPack) SIZE(OccSelect)
    SIZE(TableToFloat) SIZE(Composite) SIZE(CompositeBackward) SIZE(RayBox) SIZE(HashEncode) SIZE(FieldAlong)};
