-- What somebody other than a worker does to a job.
--
-- mode (cancel, requeue, delete or fail_deferred), id, date, and what settle.lua takes
-- Answers: done RELEASED... | running WORKER | other STATUS | missing | foreign KEY

local id, job = given.id, job_key(given.id)
if not fits(job, 'hash') then
  return {'foreign', job}
end
-- What is left of a job without data can still be deleted.
if not is_job(id) and given.mode ~= 'delete' then
  return {'missing'}
end
local status = get(id, 'status') or ''
local queue = get(id, 'origin') or ''
local REGISTRIES = {'finished', 'failed', 'deferred', 'scheduled', 'canceled', 'ready'}
local change = {}

local function leave_lists_and_registries()
  try('LREM', queue_key(queue), 0, id)
  try('LREM', intermediate_key(queue), 0, id)
  for _, registry in ipairs(REGISTRIES) do
    try('ZREM', key(registry, queue), id)
  end
end

-- Marks it. Whoever runs it finds out at its next sign.
function change.cancel()
  if status == 'canceled' or status == 'finished' or status == 'failed' or status == 'stopped' then
    return {'other', status}
  end
  redis.call('HSET', job, 'status', 'canceled')
  leave_lists_and_registries()
  for _, member in ipairs(started_members(id)) do
    try('ZREM', key('wip', queue), member)
  end
  try('ZADD', key('canceled', queue), now, id)
  if status == 'started' then
    return {'running', get(id, 'worker_name') or ''}
  end
  return {'done'}
end

function change.requeue()
  if not try('ZSCORE', key('failed', queue), id) then
    return {'other', status}
  end
  if not fits(queue_key(queue), 'list') then
    return {'foreign', queue_key(queue)}
  end
  redis.call('HSET', job, 'status', 'queued', 'started_at', '', 'ended_at', '', 'enqueued_at', given.date)
  redis.call('HDEL', job, 'exc_info')
  try('ZREM', key('failed', queue), id)
  try('PERSIST', dependents_key(id))
  try('PERSIST', dependencies_key(id))
  push(queue, id, false)
  return {'done'}
end

function change.delete()
  local there = is_job(id)
  leave_lists_and_registries()
  forget_executions(id, queue)
  for _, parent in ipairs(try('SMEMBERS', dependencies_key(id)) or {}) do
    try('SREM', dependents_key(parent), id)
  end
  try('DEL', job, dependents_key(id), dependencies_key(id), key('results', id))
  return {there and 'done' or 'missing'}
end

-- What a job waited for will not come: it failed, with the reason.
function change.fail_deferred()
  if status ~= 'deferred' then
    return {'other', status}
  end
  local _, released = settle.failed_finally(id, queue)
  try('ZREM', key('deferred', queue), id)
  for _, parent in ipairs(try('SMEMBERS', dependencies_key(id)) or {}) do
    try('SREM', dependents_key(parent), id)
  end
  return with_ids({'done'}, released)
end

return change[given.mode]()
