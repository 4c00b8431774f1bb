-- Reads a job.
--
-- id, bytes_max. Answers: missing | job ID QUEUE FIELDS LONG

if not is_job(given.id) then
  return {'missing'}
end
local fields, long = read_fields(job_key(given.id), JOB_FIELDS)
return {'job', given.id, get(given.id, 'origin') or '', fields, long}
