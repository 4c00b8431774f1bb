-- A worker vouches for the job that it runs.
--
-- id, queue, worker, execution, ttl, date, unix, started (unix), working_time
-- Answers: mine | lost

local GRACE_SECONDS = 60
local id, worker, execution, ttl = given.id, given.worker, given.execution, tonumber(given.ttl)

if not is_mine(id, worker, execution) or get(id, 'status') ~= 'started' then
  return {'lost'}
end
redis.call('HSET', job_key(id), 'last_heartbeat', given.date)
-- It is certain that the job runs, so what was lost of these is made again.
try('ZADD', key('wip', given.queue), now + ttl, id)
local name = execution_key(id, execution)
try('HSET', name, 'id', execution, 'job_id', id, 'last_heartbeat', given.unix, 'worker_name', worker)
try('HSETNX', name, 'created_at', given.started)
try('EXPIRE', name, ttl)
try('ZADD', executions_key(id), now + ttl + GRACE_SECONDS, execution)
try('EXPIRE', executions_key(id), ttl + GRACE_SECONDS)
local worker_name = worker_key(worker)
if type_of(worker_name) == 'hash' and redis.call('HEXISTS', worker_name, 'birth') == 1 then
  redis.call('HSET', worker_name, 'last_heartbeat', given.date, 'current_job_working_time', given.working_time)
  redis.call('EXPIRE', worker_name, ttl)
  try('SADD', worker_executions_key(worker), id .. ':' .. execution)
  try('EXPIRE', worker_executions_key(worker), ttl + GRACE_SECONDS)
end
return {'mine'}
