-- The same tables and rows as ledger-v1.sqlite.sql, as schema 1 would have been made in PostgreSQL. Made once; never change it.
CREATE TABLE collections (
	name VARCHAR NOT NULL, 
	fingerprint VARCHAR NOT NULL, 
	model VARCHAR NOT NULL, 
	dimensions INTEGER NOT NULL, 
	created_at FLOAT NOT NULL, 
	instruction VARCHAR, 
	PRIMARY KEY (name)
);
CREATE TABLE jobs (
	id VARCHAR NOT NULL, 
	collection VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	seq INTEGER, 
	accepted INTEGER NOT NULL, 
	indexed INTEGER NOT NULL, 
	skipped INTEGER NOT NULL, 
	failed INTEGER NOT NULL, 
	created_at FLOAT NOT NULL, 
	updated_at FLOAT NOT NULL, 
	waiting_on VARCHAR, 
	idempotency_key VARCHAR, 
	body_hash VARCHAR, 
	PRIMARY KEY (id), 
	UNIQUE (collection, idempotency_key), 
	FOREIGN KEY(collection) REFERENCES collections (name) ON DELETE CASCADE, 
	UNIQUE (seq)
);
CREATE TABLE batches (
	id SERIAL NOT NULL, 
	job_id VARCHAR NOT NULL, 
	collection VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	size INTEGER NOT NULL, 
	items VARCHAR NOT NULL, 
	outcomes VARCHAR NOT NULL, 
	done BOOLEAN NOT NULL, 
	attempts INTEGER NOT NULL, 
	releases INTEGER NOT NULL, 
	lease VARCHAR, 
	lease_until FLOAT NOT NULL, 
	not_before FLOAT NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
CREATE INDEX ix_batches_done ON batches (done);
CREATE INDEX ix_batches_job_id ON batches (job_id);
CREATE TABLE failures (
	id SERIAL NOT NULL, 
	job_id VARCHAR NOT NULL, 
	position INTEGER NOT NULL, 
	document_id VARCHAR NOT NULL, 
	code VARCHAR NOT NULL, 
	detail VARCHAR NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
CREATE INDEX ix_failures_job_id ON failures (job_id);
CREATE TABLE pending (
	batch_id INTEGER NOT NULL, 
	document_id VARCHAR NOT NULL, 
	collection VARCHAR NOT NULL, 
	PRIMARY KEY (batch_id, document_id), 
	FOREIGN KEY(batch_id) REFERENCES batches (id) ON DELETE CASCADE
);
CREATE INDEX pending_by_document ON pending (collection, document_id);
INSERT INTO collections (name, fingerprint, model, dimensions, created_at, instruction) VALUES ('flags', 'fingerprint-1', 'ret2-atlas', 8, 1.5, 'find');
INSERT INTO jobs (id, collection, kind, state, seq, accepted, indexed, skipped, failed, created_at, updated_at, waiting_on, idempotency_key, body_hash) VALUES ('00000000000000000000000000000001', 'flags', 'documents', 'succeeded_with_failures', 1, 3, 1, 1, 1, 1001.0, 1001.0, NULL, 'first', 'hash');
INSERT INTO jobs (id, collection, kind, state, seq, accepted, indexed, skipped, failed, created_at, updated_at, waiting_on, idempotency_key, body_hash) VALUES ('00000000000000000000000000000004', 'flags', 'documents', 'waiting', 2, 3, 0, 0, 0, 1002.0, 1002.0, 'encoder', NULL, NULL);
INSERT INTO jobs (id, collection, kind, state, seq, accepted, indexed, skipped, failed, created_at, updated_at, waiting_on, idempotency_key, body_hash) VALUES ('00000000000000000000000000000007', 'flags', 'delete', 'queued', 3, 1, 0, 0, 0, 1003.0, 1003.0, NULL, NULL, NULL);
INSERT INTO jobs (id, collection, kind, state, seq, accepted, indexed, skipped, failed, created_at, updated_at, waiting_on, idempotency_key, body_hash) VALUES ('00000000000000000000000000000008', 'flags', 'documents', 'queued', 4, 2, 0, 0, 0, 1004.0, 1004.0, NULL, 'last', 'hash');
INSERT INTO jobs (id, collection, kind, state, seq, accepted, indexed, skipped, failed, created_at, updated_at, waiting_on, idempotency_key, body_hash) VALUES ('00000000000000000000000000000009', 'flags', 'documents', 'queued', NULL, 1, 0, 0, 0, 1005.0, 1005.0, NULL, 'open', 'hash');
INSERT INTO batches (id, job_id, collection, kind, size, items, outcomes, done, attempts, releases, lease, lease_until, not_before) VALUES (1, '00000000000000000000000000000001', 'flags', 'documents', 0, '[]', '[[0, "a", "indexed", null, null], [1, "b", "failed", "invalid_input", "why"]]', true, 1, 0, NULL, 0.0, 1001.0);
INSERT INTO batches (id, job_id, collection, kind, size, items, outcomes, done, attempts, releases, lease, lease_until, not_before) VALUES (2, '00000000000000000000000000000001', 'flags', 'documents', 0, '[]', '[[2, "c", "skipped", null, null]]', true, 1, 0, NULL, 0.0, 1001.0);
INSERT INTO batches (id, job_id, collection, kind, size, items, outcomes, done, attempts, releases, lease, lease_until, not_before) VALUES (3, '00000000000000000000000000000004', 'flags', 'documents', 2, '[[0, "d", "text of d", null, null, {}], [1, "e", "text of e", null, null, {}]]', '[]', false, 0, 1, NULL, 0.0, 1007.0);
INSERT INTO batches (id, job_id, collection, kind, size, items, outcomes, done, attempts, releases, lease, lease_until, not_before) VALUES (4, '00000000000000000000000000000004', 'flags', 'documents', 1, '[[2, "f", "text of f", null, null, {}]]', '[]', false, 0, 0, '00000000000000000000000000000006', 1062.0, 0.0);
INSERT INTO batches (id, job_id, collection, kind, size, items, outcomes, done, attempts, releases, lease, lease_until, not_before) VALUES (5, '00000000000000000000000000000007', 'flags', 'delete', 1, '[[0, "f", null, null, null, {}]]', '[]', false, 0, 0, NULL, 0.0, 0.0);
INSERT INTO batches (id, job_id, collection, kind, size, items, outcomes, done, attempts, releases, lease, lease_until, not_before) VALUES (6, '00000000000000000000000000000008', 'flags', 'documents', 2, '[[0, "d", "text of d", null, null, {}], [1, "a", "text of a", "0000000000000000000000000000000000000000000000000000000000000000", null, {"n": "é"}]]', '[]', false, 0, 0, NULL, 0.0, 0.0);
INSERT INTO batches (id, job_id, collection, kind, size, items, outcomes, done, attempts, releases, lease, lease_until, not_before) VALUES (7, '00000000000000000000000000000009', 'flags', 'documents', 1, '[[0, "x", "text of x", null, null, {}]]', '[]', false, 0, 0, NULL, 0.0, 0.0);
SELECT setval('batches_id_seq', (SELECT coalesce(max(id), 1) FROM batches));
INSERT INTO failures (id, job_id, position, document_id, code, detail) VALUES (1, '00000000000000000000000000000001', 1, 'b', 'invalid_input', 'why');
SELECT setval('failures_id_seq', (SELECT coalesce(max(id), 1) FROM failures));
INSERT INTO pending (batch_id, document_id, collection) VALUES (3, 'e', 'flags');
INSERT INTO pending (batch_id, document_id, collection) VALUES (3, 'd', 'flags');
INSERT INTO pending (batch_id, document_id, collection) VALUES (4, 'f', 'flags');
INSERT INTO pending (batch_id, document_id, collection) VALUES (5, 'f', 'flags');
INSERT INTO pending (batch_id, document_id, collection) VALUES (6, 'd', 'flags');
INSERT INTO pending (batch_id, document_id, collection) VALUES (6, 'a', 'flags');
INSERT INTO pending (batch_id, document_id, collection) VALUES (7, 'x', 'flags');
