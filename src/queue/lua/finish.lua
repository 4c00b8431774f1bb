-- A worker says how its run of a job ended.
--
-- id, queue, worker, execution, ending, counts (success, failure or nothing), working_time, ttl, and what settle.lua takes
-- Answers: written STATUS RELEASED... | repeated | canceled | lost

local id, worker, queue = given.id, given.worker, given.queue
local member = id .. ':' .. given.execution

-- The worker has no job any more, however this one ended.
local function leave(counted, mine_until_now)
  local name = worker_key(worker)
  try('SREM', worker_executions_key(worker), member)
  if type_of(name) ~= 'hash' or redis.call('HEXISTS', name, 'birth') == 0 then
    return
  end
  -- Another process of the same name may run the job by now.
  local others = try('SCARD', worker_executions_key(worker)) or 0
  if others == 0 and try('HGET', name, 'current_job') == id then
    try('HDEL', name, 'current_job')
    try('HSET', name, 'current_job_working_time', '0', 'state', 'idle')
  end
  try('HSET', name, 'last_heartbeat', given.date)
  try('EXPIRE', name, given.ttl)
  if mine_until_now then
    try('HSET', name, 'settled_execution', given.execution)
  end
  if counted ~= 'nothing' then
    try('HINCRBY', name, counted == 'success' and 'successful_job_count' or 'failed_job_count', 1)
    try('HINCRBYFLOAT', name, 'total_working_time', given.working_time)
  end
end

-- The answer to the first time was lost.
if try('HGET', worker_key(worker), 'settled_execution') == given.execution then
  return {'repeated'}
end

local mine = is_mine(id, worker, given.execution)
local status = mine and get(id, 'status')
if status == 'started' then
  local written, released = settle[given.ending](id, queue)
  forget_executions(id, queue)
  leave(given.counts, true)
  return with_ids({'written', written}, released)
end

-- Not this worker's any more: the job is as somebody else left it, and only what is this run's own goes.
if status == 'canceled' then
  redis.call('HSET', job_key(id), 'ended_at', given.date)
  forget_executions(id, queue)
end
try('ZREM', key('wip', queue), member)
try('ZREM', executions_key(id), given.execution)
try('DEL', execution_key(id, given.execution))
if not is_job(id) then
  try('ZREM', key('wip', queue), id)
end
leave('nothing', false)
return {status == 'canceled' and 'canceled' or 'lost'}
