/* SPDX-License-Identifier: Apache-2.0
 * The shared libraries that a file asks for, read from the file. ONNX Runtime's providers cannot be opened to find out what they miss:
 * their constructors call the runtime, which tells them where it is only when it loads them itself, and they crash before (seen with
 * the CUDA provider of 1.31.1). */
#include "ort.h"

#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SEGMENTS 64 /* a library has a dozen */
#define ENTRIES 256 /* of the dynamic section; a library has 40 */

typedef struct elf_file {
    int fd;
    Elf64_Phdr segments[SEGMENTS];
    size_t count;
} elf_file;

static bool get(const elf_file *file, void *to, size_t size_bytes, uint64_t offset)
{
    return offset <= INT64_MAX && pread(file->fd, to, size_bytes, (off_t)offset) == (ssize_t)size_bytes;
}

static bool open_elf(elf_file *file, const char *path)
{
    Elf64_Ehdr header;
    file->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (file->fd < 0)
        return false;
    if (!get(file, &header, sizeof(header), 0) || memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
        header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum > SEGMENTS)
        return false;
    file->count = header.e_phnum;
    return get(file, file->segments, file->count * sizeof(Elf64_Phdr), header.e_phoff);
}

/* Where an address of the loaded library lies in the file. */
static bool offset_of(const elf_file *file, uint64_t address, uint64_t *ret_offset)
{
    for (size_t i = 0; i < file->count; i++) {
        const Elf64_Phdr *s = &file->segments[i];
        if (s->p_type == PT_LOAD && address >= s->p_vaddr && address - s->p_vaddr < s->p_filesz) {
            *ret_offset = s->p_offset + (address - s->p_vaddr);
            return true;
        }
    }
    return false;
}

static size_t names_of(const elf_file *file, char names[][ORT_NEEDED_NAME])
{
    Elf64_Dyn entries[ENTRIES];
    size_t entry_count = 0, count = 0;
    uint64_t strings = 0;
    for (size_t i = 0; i < file->count; i++) {
        const Elf64_Phdr *s = &file->segments[i];
        if (s->p_type != PT_DYNAMIC)
            continue;
        entry_count = s->p_filesz / sizeof(Elf64_Dyn) < ENTRIES ? s->p_filesz / sizeof(Elf64_Dyn) : ENTRIES;
        if (!get(file, entries, entry_count * sizeof(Elf64_Dyn), s->p_offset))
            return 0;
    }
    for (size_t i = 0; i < entry_count && entries[i].d_tag != DT_NULL; i++)
        if (entries[i].d_tag == DT_STRTAB && !offset_of(file, entries[i].d_un.d_ptr, &strings))
            return 0;
    for (size_t i = 0; strings && i < entry_count && entries[i].d_tag != DT_NULL && count < ORT_NEEDED_MAX; i++) {
        if (entries[i].d_tag != DT_NEEDED || entries[i].d_un.d_val > INT64_MAX - strings)
            continue;
        char name[ORT_NEEDED_NAME] = { 0 };
        ssize_t got = pread(file->fd, name, sizeof(name), (off_t)(strings + entries[i].d_un.d_val));
        if (got > 0 && memchr(name, '\0', (size_t)got))
            memcpy(names[count++], name, sizeof(name));
    }
    return count;
}

size_t ort_needed(const char *path, char names[][ORT_NEEDED_NAME])
{
    elf_file file = { .fd = -1 };
    size_t count = open_elf(&file, path) ? names_of(&file, names) : 0;
    if (file.fd >= 0)
        (void)close(file.fd);
    return count;
}
