BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE gateways (
	name TEXT NOT NULL, 
	at DOUBLE NOT NULL, 
	CONSTRAINT pk_gateways PRIMARY KEY (name)
);
INSERT INTO "gateways" VALUES('gateway-1',1790000021.0);
CREATE TABLE generations (
	variant TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	recipe TEXT NOT NULL, 
	digest TEXT, 
	created_at DOUBLE NOT NULL, 
	published_at DOUBLE, 
	gate TEXT, 
	probe_ms DOUBLE, 
	error TEXT, 
	has_files BOOLEAN NOT NULL, 
	CONSTRAINT pk_generations PRIMARY KEY (variant, number), 
	CONSTRAINT fk_generations_variant FOREIGN KEY(variant) REFERENCES variants (name)
);
INSERT INTO "generations" VALUES('dense',1,'published','[]','dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd',1790000000.0,1790000000.0,NULL,NULL,NULL,1);
INSERT INTO "generations" VALUES('int8',1,'kept','[{"technique":"int8","parameters":{}}]','1111111111111111111111111111111111111111111111111111111111111111',1790000001.0,1790000001.0,NULL,NULL,NULL,1);
INSERT INTO "generations" VALUES('int8',2,'published','[{"technique":"int8","parameters":{"calibration":"percentile"}}]','2222222222222222222222222222222222222222222222222222222222222222',1790000003.0,1790000015.0,'{"verdict":"pass","checks":[{"rule":"max_accuracy_drop","verdict":"pass","limit":0.02,"found":0.001,"text":"the drop is at most 0.1 points"}],"overridden_by":null,"reason":null}',3.0,NULL,1);
INSERT INTO "generations" VALUES('pruned',1,'failed','[{"technique":"activation-pruning","parameters":{}}]',NULL,1790000018.0,NULL,NULL,NULL,'the recipe needs more than 4 GiB',1);
CREATE TABLE history (
	number INTEGER NOT NULL, 
	at DOUBLE NOT NULL, 
	actor TEXT NOT NULL, 
	action TEXT NOT NULL, 
	subject TEXT NOT NULL, 
	details TEXT NOT NULL, 
	CONSTRAINT pk_history PRIMARY KEY (number)
);
INSERT INTO "history" VALUES(1,1790000000.0,'system','adopt','dense@1','');
INSERT INTO "history" VALUES(2,1790000001.0,'system','adopt','int8@1','');
INSERT INTO "history" VALUES(3,1790000002.0,'ana','replace','int8','job 75375350e51a45c4abe29e7b602655d0');
INSERT INTO "history" VALUES(4,1790000015.0,'system','published','int8@2','job 75375350e51a45c4abe29e7b602655d0');
INSERT INTO "history" VALUES(5,1790000017.0,'ana','add','pruned','job 41e7e7d19f8d4cdbb1a61fe684255ec7');
INSERT INTO "history" VALUES(6,1790000019.0,'system','failed','pruned@1','the recipe needs more than 4 GiB');
INSERT INTO "history" VALUES(7,1790000020.0,'bo','add','half','job a44a72d6b28443b8b39a9170944ed88a');
CREATE TABLE job_log (
	job INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	at DOUBLE NOT NULL, 
	text TEXT NOT NULL, 
	CONSTRAINT pk_job_log PRIMARY KEY (job, number), 
	CONSTRAINT fk_job_log_job FOREIGN KEY(job) REFERENCES jobs (position)
);
INSERT INTO "job_log" VALUES(1,1,1790000005.0,'in techniques');
INSERT INTO "job_log" VALUES(1,2,1790000007.0,'in recovery');
INSERT INTO "job_log" VALUES(1,3,1790000009.0,'in evaluation');
INSERT INTO "job_log" VALUES(1,4,1790000011.0,'in profiling');
INSERT INTO "job_log" VALUES(1,5,1790000013.0,'in gate');
CREATE TABLE jobs (
	position INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	variant TEXT NOT NULL, 
	generation INTEGER, 
	former_state TEXT, 
	status TEXT NOT NULL, 
	stage TEXT NOT NULL, 
	stage_since DOUBLE NOT NULL, 
	stage_seconds TEXT NOT NULL, 
	share DOUBLE NOT NULL, 
	recipe TEXT, 
	actor TEXT NOT NULL, 
	created_at DOUBLE NOT NULL, 
	started_at DOUBLE, 
	ended_at DOUBLE, 
	heartbeat_at DOUBLE, 
	attempts INTEGER NOT NULL, 
	cancelled_by TEXT, 
	force BOOLEAN NOT NULL, 
	reason TEXT, 
	error TEXT, 
	log_lines INTEGER NOT NULL, 
	idempotency_key TEXT, 
	body_sha256 TEXT, 
	CONSTRAINT pk_jobs PRIMARY KEY (position), 
	CONSTRAINT fk_jobs_variant FOREIGN KEY(variant) REFERENCES variants (name)
);
INSERT INTO "jobs" VALUES(1,'75375350e51a45c4abe29e7b602655d0','build','int8',2,NULL,'succeeded','published',1790000015.0,'{"queued": 1.0, "techniques": 3.0, "recovery": 2.0, "evaluation": 2.0, "profiling": 2.0, "gate": 2.0, "warming": 1.0}',1.0,'[{"technique":"int8","parameters":{"calibration":"percentile"}}]','ana',1790000002.0,1790000003.0,1790000015.0,1790000012.0,1,NULL,0,NULL,NULL,5,'first','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb');
INSERT INTO "jobs" VALUES(2,'41e7e7d19f8d4cdbb1a61fe684255ec7','build','pruned',1,NULL,'failed','techniques',1790000018.0,'{"queued": 1.0}',0.0,'[{"technique":"activation-pruning","parameters":{}}]','ana',1790000017.0,1790000018.0,1790000019.0,1790000018.0,1,NULL,0,NULL,'the recipe needs more than 4 GiB',0,NULL,NULL);
INSERT INTO "jobs" VALUES(3,'a44a72d6b28443b8b39a9170944ed88a','build','half',NULL,NULL,'queued','queued',1790000020.0,'{}',0.0,'[{"technique":"fp16","parameters":{}}]','bo',1790000020.0,NULL,NULL,NULL,0,NULL,0,NULL,NULL,0,'second','cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc');
CREATE TABLE leases (
	name TEXT NOT NULL, 
	holder TEXT NOT NULL, 
	expires_at DOUBLE NOT NULL, 
	CONSTRAINT pk_leases PRIMARY KEY (name)
);
INSERT INTO "leases" VALUES('reconciler','gateway-1',1790000032.0);
CREATE TABLE reports (
	gateway TEXT NOT NULL, 
	variant TEXT NOT NULL, 
	generation INTEGER NOT NULL, 
	state TEXT NOT NULL, 
	replicas INTEGER NOT NULL, 
	error TEXT, 
	at DOUBLE NOT NULL, 
	CONSTRAINT pk_reports PRIMARY KEY (gateway, variant, generation), 
	CONSTRAINT fk_reports_gateway FOREIGN KEY(gateway) REFERENCES gateways (name)
);
INSERT INTO "reports" VALUES('gateway-1','int8',2,'routed',1,NULL,1790000021.0);
CREATE TABLE service (
	id INTEGER NOT NULL, 
	revision BIGINT NOT NULL, 
	CONSTRAINT pk_service PRIMARY KEY (id)
);
INSERT INTO "service" VALUES(1,16);
CREATE TABLE variants (
	name TEXT NOT NULL, 
	next_number INTEGER NOT NULL, 
	is_removed BOOLEAN NOT NULL, 
	CONSTRAINT pk_variants PRIMARY KEY (name)
);
INSERT INTO "variants" VALUES('dense',2,0);
INSERT INTO "variants" VALUES('int8',3,0);
INSERT INTO "variants" VALUES('pruned',2,0);
INSERT INTO "variants" VALUES('half',1,0);
CREATE UNIQUE INDEX ix_generations_one_published ON generations (variant) WHERE state = 'published';
CREATE UNIQUE INDEX ix_jobs_id ON jobs (id);
CREATE UNIQUE INDEX ix_jobs_idempotency_key ON jobs (actor, idempotency_key);
CREATE UNIQUE INDEX ix_jobs_one_active ON jobs (variant) WHERE ended_at IS NULL;
COMMIT;
