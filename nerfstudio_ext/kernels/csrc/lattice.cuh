// Stepping along one ray through the occupancy bits, operation for operation as the contract of `march` says.
#pragma once

#include "params.cuh"

struct Ray {
    float origin[3], direction[3];
    float t, t_end;
};

// The block of cells that was read last: the next samples lie in it more often than not.
struct Block {
    u32 index = 0xffffffffu;
    u64 word = 0;
};

__device__ __forceinline__ float interval_at(const Lattice &lattice, float t) {
    return fminf(fmaxf(exact_multiply(lattice.cone_angle, t), lattice.step), lattice.max_step);
}

// Cuts the ray to the cube of half edge `half`. False when it misses, or when a number is none.
__device__ __forceinline__ bool cut_to_cube(const Ray &ray, float half, float &near, float &far) {
    near = 0.f;
    far = __int_as_float(0x7f800000);  // infinity
    bool hits = true;
#pragma unroll
    for (int axis = 0; axis < 3; axis++) {
        const float o = ray.origin[axis], d = ray.direction[axis];
        if (d == 0.f) {
            hits = hits && o >= -half && o <= half;
        } else {
            const float a = exact_divide(exact_add(-half, -o), d), b = exact_divide(exact_add(half, -o), d);
            hits = hits && a == a && b == b;
            near = fmaxf(near, fminf(a, b));
            far = fminf(far, fmaxf(a, b));
        }
    }
    return hits && near <= far;
}

// Reads ray `r` and puts it at the start of its lattice. False when it sees nothing.
__device__ __forceinline__ bool start_ray(
    Ray &ray, const RayList &rays, u32 r, const Bits &bits, const Lattice &lattice, float jitter
) {
#pragma unroll
    for (int axis = 0; axis < 3; axis++) {
        ray.origin[axis] = rays.origins[3 * r + axis];
        ray.direction[axis] = rays.directions[3 * r + axis];
    }
    const float t_min = rays.t_min[r], t_max = rays.t_max[r];
    float near, far;
    const bool hits = cut_to_cube(ray, 0.5f * (float)(1u << (bits.n_cascades - 1)), near, far);
    const float first = fmaxf(fmaxf(t_min, near), lattice.near);
    ray.t = exact_add(first, exact_multiply(jitter, interval_at(lattice, first)));
    ray.t_end = fminf(t_max, far);
    // Written so that a NaN in any of them is false.
    return hits && t_min < t_max && ray.t < ray.t_end;
}

// Ray length from `position` to the far face of the cell [low + cell * size, + size] along one axis.
__device__ __forceinline__ float length_to_face(float position, float direction, float cell, float size, float low) {
    if (fabsf(direction) <= 1e-9f) return 1e30f;
    const float face = low + (direction > 0.f ? cell + 1.f : cell) * size;
    return fast_divide(face - position, direction);
}

// First lattice interval at or after ray.t whose midpoint lies in an occupied cell: moves ray.t there and returns its
// length, or 0 when there is none.
__device__ __forceinline__ float next_interval(
    Ray &ray, Block &block, const Bits &bits, const Lattice &lattice
) {
    const int last_cell = (int)bits.grid_size - 1, blocks = (int)(bits.grid_size >> 2);
    while (ray.t < ray.t_end) {
        float dt = interval_at(lattice, ray.t);
        float next = exact_add(ray.t, dt);
        if (!(next > ray.t)) break;  // so far away that a step vanishes in rounding
        const float middle = exact_add(ray.t, 0.5f * dt);
        float p[3], reach = 0.f;
#pragma unroll
        for (int axis = 0; axis < 3; axis++) {
            p[axis] = exact_add(ray.origin[axis], exact_multiply(middle, ray.direction[axis]));
            reach = fmaxf(reach, fabsf(p[axis]));
        }
        u32 cascade = 0;
        float half = 0.5f;
        while (reach > half && cascade + 1 < bits.n_cascades) {
            half += half;
            cascade++;
        }
        if (!(reach <= half)) {
            ray.t = next;
            continue;
        }
        const float to_cell = (float)bits.grid_size * (0.5f / half);  // exact: half is a power of two
        int cell[3];
#pragma unroll
        for (int axis = 0; axis < 3; axis++) {
            cell[axis] = min(max((int)exact_multiply(exact_add(p[axis], half), to_cell), 0), last_cell);
        }
        const u32 layer = cascade * (u32)blocks + (u32)(cell[2] >> 2);
        const u32 index = (layer * (u32)blocks + (u32)(cell[1] >> 2)) * (u32)blocks + (u32)(cell[0] >> 2);
        if (index != block.index) {
            block.index = index;
            block.word = bits.words[index];
        }
        const u64 word = block.word;
        if ((word >> ((cell[2] & 3) * 16 + (cell[1] & 3) * 4 + (cell[0] & 3))) & 1u) return dt;
        // Leave the cell, or its whole empty block, in one go; the lattice itself is walked in its own sums.
        float size = fast_divide(1.f, to_cell);
        const int shift = word == 0 ? 2 : 0;
        if (shift) size *= 4.f;
        float leave = 1e30f;
#pragma unroll
        for (int axis = 0; axis < 3; axis++) {
            const float along = length_to_face(p[axis], ray.direction[axis], (float)(cell[axis] >> shift), size, -half);
            leave = fminf(leave, along);
        }
        const float target = middle + leave;
        ray.t = next;
        if (lattice.cone_angle == 0.f) {  // the same sums; only one of them waits for the last
            const float half_step = 0.5f * dt;
            while (ray.t + half_step < target && ray.t < ray.t_end && exact_add(ray.t, dt) > ray.t) {
                ray.t = exact_add(ray.t, dt);
            }
            continue;
        }
        while (true) {
            dt = interval_at(lattice, ray.t);
            next = exact_add(ray.t, dt);
            if (!(ray.t + 0.5f * dt < target && ray.t < ray.t_end && next > ray.t)) break;
            ray.t = next;
        }
    }
    return 0.f;
}
