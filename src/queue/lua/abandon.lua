-- Settles a job whose worker no longer vouches for it.
--
-- id, member, queue, ending, and what settle.lua takes; dead: a worker that is known to be gone, whatever it vouched for
-- Answers: written STATUS RELEASED... | alive | gone

local id, queue = given.id, given.queue
local wip = key('wip', queue)
if not fits(wip, 'zset') then
  return {'gone'}
end

local function is_vouched_for()
  if given.dead ~= '' then
    return get(id, 'worker_name') ~= given.dead
  end
  local members = started_members(id)
  table.insert(members, given.member)
  for _, member in ipairs(members) do
    local until_when = tonumber(redis.call('ZSCORE', wip, member) or nil)
    if until_when and until_when > now then
      return true
    end
  end
  return false
end

local started = is_job_id(id) and is_job(id) and get(id, 'status') == 'started'
if is_vouched_for() then
  local score_of_member = tonumber(redis.call('ZSCORE', wip, given.member) or nil)
  if score_of_member and score_of_member <= now then
    redis.call('ZREM', wip, given.member)
  end
  return {'alive'}
end
if not started then
  redis.call('ZREM', wip, given.member, id)
  return {'gone'}
end

local worker = get(id, 'worker_name')
local executions = try('ZRANGE', executions_key(id), 0, -1) or {}
local written, released = settle[given.ending](id, queue)
redis.call('ZREM', wip, given.member)
forget_executions(id, queue)
if worker then
  for _, execution in ipairs(executions) do
    try('SREM', worker_executions_key(worker), id .. ':' .. execution)
  end
  if try('HGET', worker_key(worker), 'current_job') == id then
    try('HDEL', worker_key(worker), 'current_job')
  end
end
return with_ids({'written', written}, released)
