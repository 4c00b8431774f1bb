-- Enqueues what is due, as the one scheduler of a queue.
--
-- queue, scheduler, date, limit
-- Answers: held | moved COUNT NEXT (Unix seconds, or empty)

local queue = given.queue
local lock, scheduled = key('scheduler-lock', queue), key('scheduled', queue)
local LOCK_SECONDS = 61
-- A producer of rq registers a job before it writes it.
local MISSING_SECONDS = 60

local holder = try('GET', lock)
if type_of(lock) ~= 'none' and holder ~= given.scheduler then
  return {'held'}
end
redis.call('SET', lock, given.scheduler, 'EX', LOCK_SECONDS)

local moved = 0
local due = {}
if fits(scheduled, 'zset') and fits(queue_key(queue), 'list') then
  due = redis.call('ZRANGEBYSCORE', scheduled, '-inf', now, 'WITHSCORES', 'LIMIT', 0, given.limit)
end
for index = 1, #due, 2 do
  local id, since = due[index], tonumber(due[index + 1])
  if is_job_id(id) and is_job(id) then
    if get(id, 'status') == 'scheduled' then
      redis.call('HSET', job_key(id), 'status', 'queued')
      -- What was put off keeps the moment at which somebody wanted it: a backup that began since then is what he wanted.
      if not get(id, 'enqueued_at') then
        redis.call('HSET', job_key(id), 'enqueued_at', given.date)
      end
      push(queue, id, get(id, 'enqueue_at_front') == '1')
      moved = moved + 1
    end
    redis.call('ZREM', scheduled, id)
  elseif not is_job_id(id) or now - since > MISSING_SECONDS then
    redis.call('ZREM', scheduled, id)
  end
end
if #due == 2 * tonumber(given.limit) then
  return {'moved', moved, tostring(now)}
end
local next = try('ZRANGEBYSCORE', scheduled, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
return {'moved', moved, next and next[2] or ''}
