-- Cleans one queue up, but for jobs that were abandoned, which it only lists.
--
-- queue, unix, limit
-- Answers: cleaned INTERMEDIATE-REQUEUED INTERMEDIATE-DROPPED WORKERS EXPIRED MEMBERS
-- MEMBERS: of wip, whose time is over.

local queue = given.queue
local limit = tonumber(given.limit)
local STUCK_SECONDS = 60
local FIRST_SEEN_SECONDS = 86400
local requeued, dropped, workers, expired = 0, 0, 0, 0

for _, registry in ipairs({'finished', 'failed'}) do
  expired = expired + (try('ZREMRANGEBYSCORE', key(registry, queue), 0, now) or 0)
end

-- Ids that a worker of Python took and never started. They never ran, so they may run.
local intermediate = intermediate_key(queue)
for _, id in ipairs(try('LRANGE', intermediate, 0, limit - 1) or {}) do
  local first_seen = key('queue', queue, 'intermediate', 'first_seen', id)
  if not is_job_id(id) or not is_job(id) or get(id, 'status') ~= 'queued' then
    try('LREM', intermediate, 1, id)
    try('DEL', first_seen)
    dropped = dropped + 1
  else
    local since = tonumber(try('GET', first_seen) or nil)
    if not since then
      try('SET', first_seen, given.unix, 'EX', FIRST_SEEN_SECONDS)
    elseif now - since > STUCK_SECONDS and fits(queue_key(queue), 'list') then
      redis.call('LPUSH', queue_key(queue), id)
      try('LREM', intermediate, 1, id)
      try('DEL', first_seen)
      requeued = requeued + 1
    end
  end
end

for _, name in ipairs(try('SMEMBERS', key('workers', queue)) or {}) do
  if redis.call('EXISTS', name) == 0 then
    try('SREM', key('workers', queue), name)
    try('SREM', key('workers'), name)
    workers = workers + 1
  end
end

local members = try('ZRANGEBYSCORE', key('wip', queue), '-inf', now, 'LIMIT', 0, limit) or {}
return {'cleaned', requeued, dropped, workers, expired, members}
