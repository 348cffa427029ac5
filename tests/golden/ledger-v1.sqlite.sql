-- What schema 1 (ret2 0.1.0) wrote into SQLite. Made once; never change it.
BEGIN TRANSACTION;
CREATE TABLE batches (
	id INTEGER NOT NULL, 
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
INSERT INTO "batches" VALUES(1,'00000000000000000000000000000001','flags','documents',0,'[]','[[0, "a", "indexed", null, null], [1, "b", "failed", "invalid_input", "why"]]',1,1,0,NULL,0.0,1001.0);
INSERT INTO "batches" VALUES(2,'00000000000000000000000000000001','flags','documents',0,'[]','[[2, "c", "skipped", null, null]]',1,1,0,NULL,0.0,1001.0);
INSERT INTO "batches" VALUES(3,'00000000000000000000000000000004','flags','documents',2,'[[0, "d", "text of d", null, null, {}], [1, "e", "text of e", null, null, {}]]','[]',0,0,1,NULL,0.0,1007.0);
INSERT INTO "batches" VALUES(4,'00000000000000000000000000000004','flags','documents',1,'[[2, "f", "text of f", null, null, {}]]','[]',0,0,0,'00000000000000000000000000000006',1062.0,0.0);
INSERT INTO "batches" VALUES(5,'00000000000000000000000000000007','flags','delete',1,'[[0, "f", null, null, null, {}]]','[]',0,0,0,NULL,0.0,0.0);
INSERT INTO "batches" VALUES(6,'00000000000000000000000000000008','flags','documents',2,'[[0, "d", "text of d", null, null, {}], [1, "a", "text of a", "0000000000000000000000000000000000000000000000000000000000000000", null, {"n": "é"}]]','[]',0,0,0,NULL,0.0,0.0);
INSERT INTO "batches" VALUES(7,'00000000000000000000000000000009','flags','documents',1,'[[0, "x", "text of x", null, null, {}]]','[]',0,0,0,NULL,0.0,0.0);
CREATE TABLE collections (
	name VARCHAR NOT NULL, 
	fingerprint VARCHAR NOT NULL, 
	model VARCHAR NOT NULL, 
	dimensions INTEGER NOT NULL, 
	created_at FLOAT NOT NULL, 
	instruction VARCHAR, 
	PRIMARY KEY (name)
);
INSERT INTO "collections" VALUES('flags','fingerprint-1','ret2-atlas',8,1.5,'find');
CREATE TABLE failures (
	id INTEGER NOT NULL, 
	job_id VARCHAR NOT NULL, 
	position INTEGER NOT NULL, 
	document_id VARCHAR NOT NULL, 
	code VARCHAR NOT NULL, 
	detail VARCHAR NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "failures" VALUES(1,'00000000000000000000000000000001',1,'b','invalid_input','why');
CREATE TABLE jobs (
	id VARCHAR NOT NULL, 
	collection VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	seq INTEGER, 
	accepted INTEGER NOT NULL, 
	"indexed" INTEGER NOT NULL, 
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
INSERT INTO "jobs" VALUES('00000000000000000000000000000001','flags','documents','succeeded_with_failures',1,3,1,1,1,1001.0,1001.0,NULL,'first','hash');
INSERT INTO "jobs" VALUES('00000000000000000000000000000004','flags','documents','waiting',2,3,0,0,0,1002.0,1002.0,'encoder',NULL,NULL);
INSERT INTO "jobs" VALUES('00000000000000000000000000000007','flags','delete','queued',3,1,0,0,0,1003.0,1003.0,NULL,NULL,NULL);
INSERT INTO "jobs" VALUES('00000000000000000000000000000008','flags','documents','queued',4,2,0,0,0,1004.0,1004.0,NULL,'last','hash');
INSERT INTO "jobs" VALUES('00000000000000000000000000000009','flags','documents','queued',NULL,1,0,0,0,1005.0,1005.0,NULL,'open','hash');
CREATE TABLE pending (
	batch_id INTEGER NOT NULL, 
	document_id VARCHAR NOT NULL, 
	collection VARCHAR NOT NULL, 
	PRIMARY KEY (batch_id, document_id), 
	FOREIGN KEY(batch_id) REFERENCES batches (id) ON DELETE CASCADE
);
INSERT INTO "pending" VALUES(3,'e','flags');
INSERT INTO "pending" VALUES(3,'d','flags');
INSERT INTO "pending" VALUES(4,'f','flags');
INSERT INTO "pending" VALUES(5,'f','flags');
INSERT INTO "pending" VALUES(6,'d','flags');
INSERT INTO "pending" VALUES(6,'a','flags');
INSERT INTO "pending" VALUES(7,'x','flags');
CREATE INDEX ix_batches_job_id ON batches (job_id);
CREATE INDEX ix_batches_done ON batches (done);
CREATE INDEX ix_failures_job_id ON failures (job_id);
CREATE INDEX pending_by_document ON pending (collection, document_id);
COMMIT;
PRAGMA user_version = 1;
