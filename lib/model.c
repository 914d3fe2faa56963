/* SPDX-License-Identifier: MIT */
/*
 * model.c - files, and what each 512-byte cell of them may hold.
 *
 * A word written to a file is tag (12 bits: which file) | generation (16) | offset / 8 (36): it
 * says where it belongs. A cell's legal contents are named by its first word (the others count up)
 * and by how many of its bytes are not zero. Where calls race there are several legal ones.
 */
#include "internal.h"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/statfs.h>
#include <sys/uio.h>

#define CELL 512
#define ALTS 6
#define WRITES 256
#define PAGE 4096
#define TURN (16 * RW_KIB) /* of RW_MIXED */

struct alt {
	uint64_t word;	/* 0: all zeros */
	uint16_t bytes; /* from here on zeros; CELL when whole */
};

struct cell {
	uint8_t n;
	struct alt alt[ALTS];
};

struct write {
	off_t off, len;
	uint32_t gen;
};

struct rw_model {
	struct rw_file file;
	enum rw_state state;
	unsigned int tag;
	uint32_t gen;
	off_t sizes[ALTS]; /* legal st_size */
	unsigned int n_sizes;
	struct cell *cells;
	size_t n_cells;
	struct write writes[WRITES]; /* submitted, not yet part of the cells */
	unsigned int n_writes;
	char path[4200];
};

static unsigned int n_tags;
static struct rw_model *tags[256];

/*
 * What direct I/O in the test's directory is like, found out by writing: before anything is frozen
 * or held, so by the first rw_file() at the latest.
 */
static struct {
	size_t sector; /* 0: not known yet */
	bool direct;
} here;

/* ---- words --------------------------------------------------------------- */

uint64_t rw_word(unsigned int tag, uint32_t gen, off_t off)
{
	return (uint64_t)tag << 52 | (uint64_t)(gen & 0xffff) << 36 | (uint64_t)off / 8;
}

void rw_describe_word(uint64_t word, char *buf, size_t len)
{
	unsigned int tag = (unsigned int)(word >> 52);
	unsigned int gen = word >> 36 & 0xffff;
	off_t off = (off_t)(word & 0xfffffffffull) * 8;
	const char *name = tag && tag <= n_tags ? tags[tag]->file.name : NULL;

	if (!word)
		snprintf(buf, len, "zeros");
	else if (!tag || !name)
		snprintf(buf, len, "%#018llx, no word of this test", (unsigned long long)word);
	else
		snprintf(buf, len, "\"%s\" (file %u) generation %u offset %lld", name, tag, gen,
			 (long long)off);
}

void rw_fill(struct rw_file *f, void *buf, off_t off, size_t len, unsigned int gen)
{
	uint64_t *w = buf, first = rw_word(f->model->tag, gen, off);

	for (size_t i = 0; i < len / 8; i++)
		w[i] = first + i;
}

/* ---- cells --------------------------------------------------------------- */

static void set_one(struct cell *c, uint64_t word, unsigned int bytes)
{
	c->n = 1;
	c->alt[0] = (struct alt){ word, (uint16_t)bytes };
}

static void add(struct cell *c, struct alt a)
{
	for (unsigned int i = 0; i < c->n; i++)
		if (c->alt[i].word == a.word && (!a.word || c->alt[i].bytes == a.bytes))
			return;
	if (c->n == ALTS)
		rw_broken("more than %d legal contents of one cell", ALTS);
	c->alt[c->n++] = a;
}

static void room(struct rw_model *m, off_t size)
{
	size_t n = ((size_t)size + CELL - 1) / CELL;

	if (n <= m->n_cells)
		return;
	m->cells = realloc(m->cells, n * sizeof(*m->cells));
	if (!m->cells)
		rw_broken("out of memory");
	for (size_t i = m->n_cells; i < n; i++)
		set_one(&m->cells[i], 0, CELL);
	m->n_cells = n;
}

static void add_size(struct rw_model *m, off_t size)
{
	for (unsigned int i = 0; i < m->n_sizes; i++)
		if (m->sizes[i] == size)
			return;
	if (m->n_sizes == ALTS)
		rw_broken("more than %d legal sizes", ALTS);
	m->sizes[m->n_sizes++] = size;
}

static void at_least(struct rw_model *m, off_t size)
{
	off_t old[ALTS];
	unsigned int n = m->n_sizes;

	memcpy(old, m->sizes, sizeof(old));
	m->n_sizes = 0;
	for (unsigned int i = 0; i < n; i++)
		add_size(m, old[i] > size ? old[i] : size);
}

static void apply_write(struct rw_model *m, const struct write *w)
{
	room(m, w->off + w->len);
	for (off_t at = w->off; at < w->off + w->len; at += CELL)
		set_one(&m->cells[at / CELL], rw_word(m->tag, w->gen, at), CELL);
	at_least(m, w->off + w->len);
}

static void zero(struct rw_model *m, off_t from, off_t to)
{
	for (off_t at = from / CELL * CELL; at < to; at += CELL) {
		struct cell *c = &m->cells[at / CELL];

		/* Only a truncation cuts a cell; it cuts its tail. */
		for (unsigned int i = 0; at < from && i < c->n; i++)
			if (c->alt[i].bytes > from - at)
				c->alt[i].bytes = (uint16_t)(from - at);
		if (at >= from)
			set_one(c, 0, CELL);
	}
}

static void resize(struct rw_model *m, off_t size)
{
	room(m, size);
	if (size < (off_t)(m->n_cells * CELL))
		zero(m, size, (off_t)(m->n_cells * CELL));
	m->sizes[0] = size;
	m->n_sizes = 1;
}

static void shift(struct rw_model *m, const struct rw_change *c)
{
	off_t size = m->sizes[0];
	size_t at = (size_t)(c->off / CELL), n = (size_t)(c->len / CELL);

	if (m->n_sizes != 1 || c->off % CELL || c->len % CELL || size % CELL)
		rw_broken("a shift of a file whose size is not known");
	if (c->kind == RW_COLLAPSE) {
		memmove(&m->cells[at], &m->cells[at + n],
			(m->n_cells - at - n) * sizeof(*m->cells));
		for (size_t i = m->n_cells - n; i < m->n_cells; i++)
			set_one(&m->cells[i], 0, CELL);
		m->sizes[0] = size - c->len;
	} else {
		room(m, (off_t)(m->n_cells * CELL) + c->len);
		memmove(&m->cells[at + n], &m->cells[at],
			(m->n_cells - at - n) * sizeof(*m->cells));
		for (size_t i = at; i < at + n; i++)
			set_one(&m->cells[i], 0, CELL);
		m->sizes[0] = size + c->len;
	}
}

static void copy(struct rw_model *m, const struct rw_change *c)
{
	const struct rw_model *from = c->from->model;

	room(m, c->off + c->len);
	for (off_t at = 0; at < c->len; at += CELL) {
		size_t i = (size_t)((c->from_off + at) / CELL);
		struct cell *to = &m->cells[(c->off + at) / CELL];

		if (i < from->n_cells)
			*to = from->cells[i];
		else
			set_one(to, 0, CELL);
	}
	at_least(m, c->off + c->len);
}

static void exchange_all(struct rw_model *m, struct rw_model *other)
{
	const struct rw_model was = *m;

	m->cells = other->cells;
	m->n_cells = other->n_cells;
	m->n_sizes = other->n_sizes;
	memcpy(m->sizes, other->sizes, sizeof(m->sizes));
	other->cells = was.cells;
	other->n_cells = was.n_cells;
	other->n_sizes = was.n_sizes;
	memcpy(other->sizes, was.sizes, sizeof(was.sizes));
}

static void exchange(struct rw_model *m, const struct rw_change *c)
{
	struct rw_model *other = c->from->model;

	if (other->n_writes)
		rw_broken("an exchange with writes that rw_then() was not told of");
	if (!c->len) {
		exchange_all(m, other);
		return;
	}
	room(m, c->off + c->len);
	room(other, c->from_off + c->len);
	for (off_t at = 0; at < c->len; at += CELL) {
		struct cell *a = &m->cells[(c->off + at) / CELL];
		struct cell *b = &other->cells[(c->from_off + at) / CELL];
		const struct cell was = *a;

		*a = *b;
		*b = was;
	}
}

static void apply(struct rw_model *m, const struct rw_change *c)
{
	switch (c->kind) {
	case RW_KEEP:
		break;
	case RW_GROW:
		room(m, c->off + c->len);
		at_least(m, c->off + c->len);
		break;
	case RW_ZERO:
		room(m, c->off + c->len);
		zero(m, c->off, c->off + c->len);
		break;
	case RW_COLLAPSE:
	case RW_INSERT:
		shift(m, c);
		break;
	case RW_RESIZE:
		resize(m, c->off);
		break;
	case RW_COPY:
		copy(m, c);
		break;
	case RW_EXCHANGE:
		exchange(m, c);
		break;
	}
}

static struct rw_model *clone_model(const struct rw_model *m)
{
	struct rw_model *n = malloc(sizeof(*n));

	if (!n)
		rw_broken("out of memory");
	*n = *m;
	n->cells = malloc(m->n_cells * sizeof(*m->cells));
	if (!n->cells)
		rw_broken("out of memory");
	memcpy(n->cells, m->cells, m->n_cells * sizeof(*m->cells));
	return n;
}

static void unite(struct rw_model *m, struct rw_model *other)
{
	room(m, (off_t)(other->n_cells * CELL));
	room(other, (off_t)(m->n_cells * CELL));
	for (size_t i = 0; i < m->n_cells; i++)
		for (unsigned int k = 0; k < other->cells[i].n; k++)
			add(&m->cells[i], other->cells[i].alt[k]);
	for (unsigned int i = 0; i < other->n_sizes; i++)
		add_size(m, other->sizes[i]);
	free(other->cells);
	free(other);
}

void rw_then(struct rw_file *f, struct rw_change c)
{
	struct rw_model *m = f->model;

	for (unsigned int i = 0; i < m->n_writes; i++)
		apply_write(m, &m->writes[i]);
	m->n_writes = 0;
	apply(m, &c);
}

/* `lost`: some of the writes may not have come at all. */
static void race(struct rw_file *f, struct rw_change c, bool lost)
{
	struct rw_model *m = f->model, *after = clone_model(m), *none = clone_model(m);

	/* All before, all after; some before and some after is, cell by cell, one of these... */
	for (unsigned int i = 0; i < m->n_writes; i++)
		apply_write(m, &m->writes[i]);
	apply(m, &c);
	apply(after, &c);
	for (unsigned int i = 0; i < m->n_writes; i++)
		apply_write(after, &m->writes[i]);
	/* ...or, where the change moves data or ends the file, a cell that no write came to. */
	apply(none, &c);
	for (unsigned int i = 0; i < m->n_writes; i++) {
		struct rw_model *one = clone_model(none);

		apply_write(one, &m->writes[i]);
		for (unsigned int k = 0; k < one->n_sizes; k++)
			add_size(after, one->sizes[k]);
		free(one->cells);
		free(one);
	}
	unite(m, after);
	if (lost || c.kind == RW_COLLAPSE || c.kind == RW_INSERT || c.kind == RW_RESIZE) {
		unite(m, none);
	} else {
		free(none->cells);
		free(none);
	}
	m->n_writes = 0;
}

void rw_race(struct rw_file *f, struct rw_change c)
{
	race(f, c, false);
}

void rw_race_cancelled(struct rw_file *f, struct rw_change c)
{
	race(f, c, true);
}

/* Take it off the list of those on their way. */
static struct write come_to_end(struct rw_model *m, const struct rw_io *io)
{
	unsigned int i = 0;
	struct write w;

	while (i < m->n_writes && m->writes[i].gen != io->promise)
		i++;
	if (i == m->n_writes || !io->done)
		rw_broken("the end of a write that was not reaped, or told of before");
	w = m->writes[i];
	m->writes[i] = m->writes[--m->n_writes];
	return w;
}

void rw_not_written(struct rw_file *f, const struct rw_io *io)
{
	come_to_end(f->model, io);
}

void rw_ended(struct rw_file *f, const struct rw_io *io)
{
	struct rw_model *m = f->model;
	struct write w = come_to_end(m, io);

	if (io->res > 0) {
		w.len = io->res;
		apply_write(m, &w);
		return;
	}
	for (off_t at = w.off; io->res && at < w.off + w.len; at += CELL) {
		if ((size_t)(at / CELL) >= m->n_cells)
			break; /* behind the end, which a write that failed does not move */
		add(&m->cells[at / CELL], (struct alt){ rw_word(m->tag, w.gen, at), CELL });
	}
}

struct rw_model *rw_either(struct rw_file *f, struct rw_change c)
{
	struct rw_model *before = clone_model(f->model), *after;

	rw_then(f, c);
	after = clone_model(f->model);
	unite(f->model, before);
	return after;
}

void rw_settle(struct rw_file *f, struct rw_model *after)
{
	exchange_all(f->model, after);
	free(after->cells);
	free(after);
}

void rw_maybe(struct rw_file *f, struct rw_change c)
{
	struct rw_model *m = f->model, *before = clone_model(m);

	if (m->n_writes)
		rw_broken("rw_maybe() with writes that rw_then() or rw_race() was not told of");
	apply(m, &c);
	unite(m, before);
}

void rw_unordered(struct rw_file *f)
{
	struct rw_model *m = f->model;

	for (unsigned int i = 0; i < m->n_writes; i++)
		apply_write(m, &m->writes[i]);
	for (unsigned int i = 0; i < m->n_writes; i++)
		for (off_t at = m->writes[i].off; at < m->writes[i].off + m->writes[i].len;
		     at += CELL)
			add(&m->cells[at / CELL],
			    (struct alt){ rw_word(m->tag, m->writes[i].gen, at), CELL });
	m->n_writes = 0;
}

/* ---- verify -------------------------------------------------------------- */

static bool cell_is(const uint64_t *got, const struct alt *a, size_t bytes)
{
	for (size_t i = 0; i < bytes / 8; i++) {
		uint64_t want = a->word && i * 8 < a->bytes ? a->word + i : 0;

		if (got[i] != want)
			return false;
	}
	return true;
}

/* In a word, how does it differ from what should be there? `home`: a word of the same place. */
static const char *difference(uint64_t word, uint64_t want, uint64_t home)
{
	const uint64_t offset = 0xfffffffffull, gen = 0xffffull << 36;

	home = want ? want : home;
	if (!word)
		return "zeroed";
	if (word >> 52 != home >> 52)
		return "foreign";
	if ((word ^ home) & offset)
		return "shifted";
	return !want || (word & gen) < (want & gen) ? "stale" : "not due yet";
}

/* Is the i-th word of the cell that of any of its legal contents? */
static bool word_fits(const uint64_t *got, const struct cell *c, size_t i)
{
	for (unsigned int k = 0; k < c->n; k++)
		if (got[i] == (c->alt[k].word && i * 8 < c->alt[k].bytes ? c->alt[k].word + i : 0))
			return true;
	return false;
}

static void wrong(const struct rw_model *m, const char *how, off_t at, const uint64_t *got,
		  const struct cell *c, size_t bytes)
{
	char is[160], want[160], more[32] = "";
	uint64_t expected;
	size_t i = 0;

	/* Name the first word that fits no legal contents. */
	while (i + 1 < bytes / 8 && word_fits(got, c, i))
		i++;
	at += (off_t)i * 8;
	expected = c->alt[0].word && i * 8 < c->alt[0].bytes ? c->alt[0].word + i : 0;
	rw_describe_word(got[i], is, sizeof(is));
	rw_describe_word(expected, want, sizeof(want));
	if (c->n > 1)
		snprintf(more, sizeof(more), " (or %u others)", c->n - 1);
	rw_fail("%s of \"%s\" at offset %lld is %s: %s, expected %s%s", how, m->file.name,
		(long long)at, difference(got[i], expected, rw_word(m->tag, 0, at)), is, want,
		more);
}

static void check(struct rw_model *m, const char *how, const void *buf, off_t off, size_t len,
		  bool may_tear)
{
	if (off % CELL)
		rw_broken("rw_check: offset %lld", (long long)off);
	room(m, off + (off_t)len);
	for (size_t at = 0; at < len; at += CELL) {
		const uint64_t *got = (const uint64_t *)((const char *)buf + at);
		const struct cell *c = &m->cells[(off + (off_t)at) / CELL];
		size_t bytes = len - at < CELL ? len - at : CELL;
		bool ok = may_tear;

		for (size_t i = 0; i < bytes / 8 && ok; i++)
			ok = word_fits(got, c, i);
		for (unsigned int i = 0; i < c->n && !ok; i++)
			ok = cell_is(got, &c->alt[i], bytes);
		if (!ok)
			wrong(m, how, off + (off_t)at, got, c, bytes);
	}
}

void rw_check(struct rw_file *f, const char *how, const void *buf, off_t off, size_t len)
{
	check(f->model, how, buf, off, len, false);
}

void rw_check_asynchronous(struct rw_file *f, const void *buf, off_t off, size_t len)
{
	/* A copy out of a page, while another one into it goes on, is of both. */
	check(f->model, "asynchronous read", buf, off, len, !rw_direct());
}

static void compare(struct rw_model *m, const char *how, int fd, char *buf, off_t size)
{
	off_t at = 0;

	while (at < size) {
		/* Direct reads end at EOF, but must be asked for whole sectors. */
		size_t ask = ((size_t)(size - at) + PAGE - 1) / PAGE * PAGE;
		ssize_t n;

		ask = ask > RW_MAX_WRITE ? RW_MAX_WRITE : ask;
		n = pread(fd, buf, ask, at);
		if (n < 0)
			rw_fail("%s of \"%s\" at offset %lld: %s", how, m->file.name, (long long)at,
				strerror(errno));
		if (n < (ssize_t)ask && at + n < size)
			rw_fail("%s of \"%s\" at offset %lld: %zd bytes, expected %zu", how,
				m->file.name, (long long)at, n, ask);
		rw_check(&m->file, how, buf, at, n < size - at ? (size_t)n : (size_t)(size - at));
		at += n;
		rw_progress();
	}
}

void rw_verify(struct rw_file *f)
{
	struct rw_model *m = f->model;
	bool legal = false;
	struct stat st;
	char *buf;
	int fd;

	if (m->n_writes)
		rw_broken("rw_verify() with writes that rw_then() or rw_race() was not told of");
	rw_set_up(fstat(f->fd, &st));
	for (unsigned int i = 0; i < m->n_sizes; i++)
		legal |= st.st_size == m->sizes[i];
	if (!legal)
		rw_fail("st_size of \"%s\" is %lld, expected %lld%s", f->name,
			(long long)st.st_size, (long long)m->sizes[0],
			m->n_sizes > 1 ? " or one of several others" : "");
	room(m, st.st_size);
	buf = aligned_alloc(PAGE, RW_MAX_WRITE);
	if (!buf)
		rw_broken("out of memory");
	compare(m, "direct read", f->fd, buf, st.st_size);
	fd = (int)rw_set_up(open(m->path, O_RDONLY | O_CLOEXEC));
	compare(m, "cached read", fd, buf, st.st_size);
	close(fd);
	free(buf);
}

/* ---- files --------------------------------------------------------------- */

static void write_range(struct rw_file *f, size_t from, size_t len, uint32_t gen)
{
	char *buf = aligned_alloc(PAGE, RW_MAX_WRITE);

	if (!buf)
		rw_broken("out of memory");
	for (size_t at = from; at < from + len; at += RW_MAX_WRITE) {
		size_t left = from + len - at;
		size_t n = left < (size_t)RW_MAX_WRITE ? left : (size_t)RW_MAX_WRITE;
		struct write w = { (off_t)at, (off_t)n, gen };

		rw_fill(f, buf, (off_t)at, n, gen);
		rw_set_up(pwrite(f->fd, buf, n, (off_t)at) == (ssize_t)n ? 0 : -1);
		apply_write(f->model, &w);
	}
	free(buf);
}

static void share(struct rw_file *f)
{
	char path[4300];
	int fd;

	snprintf(path, sizeof(path), "%s.shared", f->model->path);
	unlink(path);
	fd = (int)rw_set_up(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	rw_supported("reflink", ioctl(fd, FICLONE, f->fd));
	close(fd);
}

static void make(struct rw_file *f, size_t size)
{
	struct rw_model *m = f->model;
	uint32_t gen = ++m->gen; /* a word of the file's former life is stale */

	m->n_writes = 0;
	free(m->cells);
	m->cells = NULL;
	m->n_cells = 0;
	m->sizes[0] = 0;
	m->n_sizes = 1;
	unlink(m->path);
	f->fd = (int)rw_set_up(open(m->path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600));
	switch (m->state) {
	case RW_HOLE:
		rw_set_up(ftruncate(f->fd, (off_t)size));
		break;
	case RW_UNWRITTEN:
		rw_supported("fallocate", fallocate(f->fd, 0, 0, (off_t)size));
		break;
	case RW_WRITTEN:
	case RW_SHARED:
		write_range(f, 0, size, gen);
		break;
	case RW_PAST_EOF:
		write_range(f, 0, size, gen);
		rw_supported("fallocate",
			     fallocate(f->fd, FALLOC_FL_KEEP_SIZE, (off_t)size, (off_t)size));
		break;
	case RW_SHRUNK:
		write_range(f, 0, 2 * size, gen);
		rw_set_up(ftruncate(f->fd, (off_t)size));
		rw_set_up(syncfs(f->fd)); /* or they are busy yet */
		break;
	case RW_MIXED:
	case RW_SHARED_MIXED:
		for (size_t at = 0; at < size; at += 3 * TURN) {
			write_range(f, at, size - at < TURN ? size - at : TURN, gen);
			rw_supported("fallocate", fallocate(f->fd, FALLOC_FL_KEEP_SIZE,
							    (off_t)(at + TURN), TURN));
		}
		rw_set_up(ftruncate(f->fd, (off_t)size));
		break;
	}
	resize(m, (off_t)size);
	rw_set_up(fsync(f->fd));
	if (m->state == RW_SHARED || m->state == RW_SHARED_MIXED)
		share(f);
}

static void try_direct(void);

struct rw_file *rw_file(const char *name, enum rw_state state, size_t size)
{
	struct rw_model *m = NULL;

	if (size % CELL)
		rw_broken("rw_file: size %zu is not a multiple of %d", size, CELL);
	try_direct();
	for (unsigned int i = 1; i <= n_tags && !m; i++)
		if (!strcmp(tags[i]->file.name, name))
			m = tags[i];
	if (!m) {
		m = calloc(1, sizeof(*m));
		if (!m || n_tags + 1 == RW_ARRAY_SIZE(tags))
			rw_broken("out of memory or file tags");
		m->tag = ++n_tags;
		tags[m->tag] = m;
		m->gen = rw_rand(1000);
		m->file = (struct rw_file){ -1, name, m };
		snprintf(m->path, sizeof(m->path), "%s/%.80s", rw_opt.dir, name);
	}
	m->state = state;
	if (m->file.fd >= 0)
		close(m->file.fd);
	make(&m->file, size);
	return &m->file;
}

bool rw_can_make(enum rw_state state)
{
	char path[4200], to[4300];
	bool can = true;
	int fd, other;

	if (state == RW_WRITTEN || state == RW_HOLE)
		return true;
	snprintf(path, sizeof(path), "%s/can-make", rw_opt.dir);
	snprintf(to, sizeof(to), "%s.shared", path);
	fd = (int)rw_set_up(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	if (state != RW_SHARED && state != RW_SHARED_MIXED) {
		can = !fallocate(fd, 0, 0, PAGE) || errno != EOPNOTSUPP;
	} else {
		other = (int)rw_set_up(open(to, O_RDWR | O_CREAT | O_CLOEXEC, 0600));
		rw_set_up(pwrite(fd, path, CELL, 0) == CELL ? 0 : -1);
		can = !ioctl(other, FICLONE, fd) || (errno != EOPNOTSUPP && errno != ENOTTY);
		close(other);
		unlink(to);
	}
	close(fd);
	unlink(path);
	return can;
}

static int open_cached(const struct rw_file *f)
{
	int fd = (int)rw_set_up(open(f->model->path, O_RDWR | O_CLOEXEC));

	rw_set_up(posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM) ? -1 : 0); /* no readahead */
	return fd;
}

void rw_cache(const struct rw_file *f, off_t off, size_t len)
{
	int fd = open_cached(f);
	char byte;

	for (off_t at = off; at < off + (off_t)len; at += PAGE)
		rw_set_up(pread(fd, &byte, 1, at));
	close(fd);
}

void rw_cache_dirty(struct rw_file *f, off_t off, size_t len)
{
	const struct write w = { off, (off_t)len, ++f->model->gen };
	char *buf = malloc(len);
	int fd = open_cached(f);

	if (!buf)
		rw_broken("out of memory");
	rw_fill(f, buf, off, len, w.gen);
	rw_set_up(pwrite(fd, buf, len, off) == (ssize_t)len ? 0 : -1);
	apply_write(f->model, &w);
	free(buf);
	close(fd);
}

void rw_sole(struct rw_file *f)
{
	uint64_t end = rw_until(20000);
	int fd;

	close(f->fd);
	fd = (int)rw_set_up(open(f->model->path, O_RDONLY | O_CLOEXEC));
	rw_enter("wait until nothing holds the file open");
	while (fcntl(fd, F_SETLEASE, F_RDLCK)) {
		if (errno != EAGAIN && errno != EWOULDBLOCK)
			rw_broken("fcntl(F_SETLEASE): %s", strerror(errno));
		if (rw_now_ns() > end)
			rw_fail("\"%s\" is still open for writing somewhere, though no task has it",
				f->name);
		poll(NULL, 0, 1); /* a ring lets go of its files in a worker of the kernel */
		rw_progress();
	}
	rw_returned();
	close(fd);
	f->fd = (int)rw_set_up(open(f->model->path, O_RDWR | O_DIRECT | O_CLOEXEC));
}

void rw_move_to(const char *dir)
{
	rw_opt.dir = strdup(dir);
	if (!rw_opt.dir)
		rw_broken("out of memory");
	here.sector = 0;
}

const char *rw_path(const struct rw_file *f)
{
	return f->model->path;
}

unsigned int rw_promise(struct rw_file *f, off_t off, size_t len)
{
	struct rw_model *m = f->model;

	if (m->n_writes == WRITES)
		rw_broken("more than %d writes without rw_then()", WRITES);
	m->writes[m->n_writes++] = (struct write){ off, (off_t)len, ++m->gen };
	return m->gen;
}

/* ---- surroundings -------------------------------------------------------- */

unsigned int rw_fs(void)
{
	/* statfs(2), include/uapi/linux/magic.h */
	static const struct {
		unsigned int magic, fs;
	} known[] = {
		{ 0x58465342, RW_XFS },
		{ 0xef53, RW_EXT4 },
		{ 0x9123683e, RW_BTRFS },
		{ 0xf2f52010, RW_F2FS },
	};
	struct statfs s;

	rw_set_up(statfs(rw_opt.dir, &s));
	for (size_t i = 0; i < RW_ARRAY_SIZE(known); i++)
		if ((unsigned int)s.f_type == known[i].magic)
			return known[i].fs;
	return RW_OTHER_FS;
}

size_t rw_block_size(void)
{
	struct statfs s;

	rw_set_up(statfs(rw_opt.dir, &s));
	return (size_t)s.f_bsize;
}

/*
 * btrfs answers no statx(2). A direct write of allocated blocks does not sleep, one that falls back to
 * the page cache always would (btrfs_direct_write()), and says so when it may not.
 */
static bool writes_directly(int fd)
{
	char *buf = aligned_alloc(PAGE, PAGE);
	const struct iovec iov = { buf, PAGE };
	bool direct = false;

	if (!buf)
		rw_broken("out of memory");
	memset(buf, 0, PAGE);
	rw_set_up(fallocate(fd, 0, 0, PAGE));
	rw_set_up(fsync(fd));
	for (int try = 0; try < 20 && !direct; try++) /* it gives way to others, too */
		direct = pwritev2(fd, &iov, 1, 0, RWF_NOWAIT) == PAGE;
	free(buf);
	return direct;
}

/* The smallest direct write that is not refused. */
static size_t smallest_write(int fd)
{
	char *buf = aligned_alloc(PAGE, 2 * PAGE);
	size_t size;

	if (!buf)
		rw_broken("out of memory");
	memset(buf, 0, 2 * PAGE);
	rw_set_up(pwrite(fd, buf, PAGE, 0));
	for (size = 512; size < PAGE; size *= 2)
		if (pwrite(fd, buf, size, (off_t)size) == (ssize_t)size)
			break;
	free(buf);
	return size;
}

static void try_direct(void)
{
	char path[4200];
	int fd;

	if (here.sector)
		return;
	snprintf(path, sizeof(path), "%s/direct", rw_opt.dir);
	fd = (int)rw_set_up(open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600));
	here.direct = rw_fs() != RW_BTRFS || writes_directly(fd);
#ifdef STATX_DIOALIGN
	struct statx stx;

	/* Linux 6.1, statx(2): zero means that direct I/O falls back or is refused. */
	if (!statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) && stx.stx_mask & STATX_DIOALIGN) {
		here.sector = stx.stx_dio_offset_align;
		here.direct = here.sector;
	}
#endif
	if (!here.sector)
		here.sector = smallest_write(fd);
	close(fd);
	unlink(path);
}

size_t rw_sector_size(void)
{
	try_direct();
	return here.sector;
}

bool rw_direct(void)
{
	try_direct();
	return here.direct;
}

static uint64_t rand_state;

unsigned int rw_rand(unsigned int n)
{
	/* splitmix64: the state is the seed plus a multiple of the golden ratio */
	uint64_t z;

	if (!rand_state)
		rand_state = rw_opt.seed * 2 + 1;
	z = rand_state += 0x9e3779b97f4a7c15ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return n ? (unsigned int)((z ^ z >> 31) % n) : 0;
}

void rw_jitter(unsigned int us)
{
	uint64_t end = rw_now_ns() + rw_rand(us + 1) * 1000ull;

	while (rw_now_ns() < end)
		;
}

uint64_t rw_until(unsigned int ms)
{
	return rw_now_ns() + (uint64_t)(ms * rw_opt.timeout_scale) * RW_MS;
}

bool rw_more(uint64_t end)
{
	static uint64_t last;
	bool first = last != end;

	last = end;
	rw_progress();
	return first || rw_now_ns() < end;
}
