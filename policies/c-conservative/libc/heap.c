/* The few library functions a policy without a C library needs.
 *
 * The heap keeps blocks of 16 << class bytes, an 8-byte header before each, and a list of free ones per
 * class. A tick that allocates what the tick before allocated takes the same blocks again: memory does
 * not grow. Blocks are never split or joined. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { CLASSES = 20, HEADER = 8, PAGE = 65536 }; /* up to 16 << 19 = 8 MiB */

typedef struct block {
    struct block *next;
} block;

extern unsigned char __heap_base; /* set by the linker */
static block *free_blocks[CLASSES];
static uintptr_t top;

_Noreturn void abort(void) { __builtin_trap(); }

static uint32_t *header(void *block) { return (uint32_t *)((unsigned char *)block - HEADER); }

void *malloc(size_t size) {
    uint32_t class = 0;
    while (class < CLASSES && ((size_t)16 << class) < size) class++;
    if (class == CLASSES) return NULL;
    if (free_blocks[class]) {
        block *taken = free_blocks[class];
        free_blocks[class] = taken->next;
        return taken;
    }
    if (!top) top = ((uintptr_t)&__heap_base + 15) & ~(uintptr_t)15;
    uintptr_t at = top + 16; /* the header sits before it; the block stays aligned to 16 */
    uintptr_t end = at + ((uintptr_t)16 << class);
    uintptr_t have = (uintptr_t)__builtin_wasm_memory_size(0) * PAGE;
    if (end > have && __builtin_wasm_memory_grow(0, (end - have + PAGE - 1) / PAGE) == (size_t)-1) return NULL;
    top = end;
    *header((void *)at) = class;
    return (void *)at;
}

void free(void *freed) {
    if (!freed) return;
    block *b = freed;
    uint32_t class = *header(freed);
    b->next = free_blocks[class];
    free_blocks[class] = b;
}

void *realloc(void *old, size_t size) {
    if (!old) return malloc(size);
    size_t room = (size_t)16 << *header(old);
    if (size <= room) return old;
    void *new = malloc(size);
    if (!new) return NULL;
    memcpy(new, old, room);
    free(old);
    return new;
}

/* -ffreestanding lets the compiler turn such loops into calls of the very functions they define: keep it
 * from recognising them. */
#define PLAIN __attribute__((no_builtin))

PLAIN void *memcpy(void *restrict to, const void *restrict from, size_t size) {
    unsigned char *t = to;
    const unsigned char *f = from;
    while (size--) *t++ = *f++;
    return to;
}

PLAIN void *memset(void *to, int byte, size_t size) {
    unsigned char *t = to;
    while (size--) *t++ = (unsigned char)byte;
    return to;
}

PLAIN int memcmp(const void *a, const void *b, size_t size) {
    const unsigned char *x = a, *y = b;
    for (; size--; x++, y++)
        if (*x != *y) return *x < *y ? -1 : 1;
    return 0;
}

PLAIN size_t strlen(const char *s) {
    size_t n = 0;
    while (s[n]) n++;
    return n;
}
