-- Flights that left New York City in 2013: from files to predictions.

-- 1. Tables from files.
CREATE TABLE flights AS SELECT * FROM 'nycflights13/flights.parquet';
CREATE TABLE weather AS SELECT * FROM 'nycflights13/weather.parquet';
CREATE TABLE planes AS SELECT * FROM 'nycflights13/planes.parquet';
CREATE TABLE airports AS SELECT * FROM 'nycflights13/airports.parquet';
CREATE TABLE airlines AS SELECT * FROM 'nycflights13/airlines.parquet';

-- 2. One row for each flight that arrived: what was known before it left,
--    and whether it came in more than 15 minutes late.
CREATE TABLE features AS
WITH history AS (
  SELECT *,
         LAG(arr_delay) OVER (PARTITION BY tailnum
                              ORDER BY year, month, day, sched_dep_time,
                                       flight, origin) AS prev_delay
  FROM flights
)
SELECT
  f.carrier, l.name AS airline, f.flight, f.tailnum,
  f.origin, f.dest, f.month, f.day,
  f.hour + f.minute / 60.0  AS dep_hour,
  f.distance,
  w.temp, w.wind_speed, w.visib,
  f.year - p.year           AS plane_age,
  f.prev_delay,
  a.lat                     AS dest_lat,
  a.alt                     AS dest_alt,
  f.arr_delay > 15          AS late,
  (f.flight * 31 + f.day * 7 + f.month * 13 + f.hour + f.year) % 5 = 0
                            AS is_test
FROM history f
LEFT JOIN weather w  ON w.origin = f.origin AND w.time_hour = f.time_hour
LEFT JOIN planes p   ON p.tailnum = f.tailnum
LEFT JOIN airports a ON a.faa = f.dest
JOIN airlines l      ON l.carrier = f.carrier
WHERE f.arr_delay IS NOT NULL;

SELECT COUNT(*) AS flights,
       ROUND(AVG(CASE WHEN late THEN 1.0 ELSE 0.0 END), 4) AS share_late,
       SUM(CASE WHEN is_test THEN 1 ELSE 0 END) AS held_out
FROM features;

-- 3. A network with two hidden layers. The statistics in TRANSFORM are those
--    of the training rows.
CREATE MODEL late_flights
TRANSFORM (
  sin(6.283185307179586 * dep_hour / 24.0) AS dep_sin,
  cos(6.283185307179586 * dep_hour / 24.0) AS dep_cos,
  ML.STANDARD_SCALER(distance) OVER() AS distance,
  ML.STANDARD_SCALER(ML.IMPUTER(temp, 'mean') OVER()) OVER() AS temp,
  ML.STANDARD_SCALER(ML.IMPUTER(wind_speed, 'mean') OVER()) OVER()
    AS wind_speed,
  ML.STANDARD_SCALER(ML.IMPUTER(visib, 'mean') OVER()) OVER() AS visib,
  ML.STANDARD_SCALER(ML.IMPUTER(plane_age, 'median') OVER()) OVER()
    AS plane_age,
  ML.STANDARD_SCALER(ML.IMPUTER(prev_delay, 'median') OVER()) OVER()
    AS prev_delay,
  ML.STANDARD_SCALER(ML.IMPUTER(dest_lat, 'mean') OVER()) OVER() AS dest_lat,
  ML.STANDARD_SCALER(ML.IMPUTER(dest_alt, 'mean') OVER()) OVER() AS dest_alt,
  ML.ONE_HOT_ENCODER(carrier) OVER() AS carrier,
  ML.ONE_HOT_ENCODER(origin) OVER() AS origin,
  late,
  is_test
)
OPTIONS (
  model_type = 'dnn_classifier', input_label_cols = ['late'],
  hidden_units = [64, 64], activation_fn = 'relu',
  optimizer = 'adam', learn_rate = 0.001, batch_size = 1024,
  max_iterations = 3, early_stop = FALSE,
  data_split_method = 'custom', data_split_col = 'is_test', seed = 7
)
AS SELECT * FROM features;

-- How good it is on the held-out flights, beside always answering "in time".
SELECT ROUND(e.accuracy, 4) AS accuracy,
       ROUND(b.accuracy, 4) AS baseline_accuracy,
       ROUND(e.roc_auc, 4)  AS roc_auc
FROM ML.EVALUATE(MODEL late_flights) AS e,
     (SELECT AVG(CASE WHEN late THEN 0.0 ELSE 1.0 END) AS accuracy
      FROM features WHERE is_test) AS b;

-- 4. Predictions inside of a query: where delays are to be expected,
--    and what came of it.
SELECT airline, month,
       COUNT(*)                                              AS flights,
       ROUND(AVG(predicted_late_prob), 3)                    AS mean_prob,
       ROUND(AVG(CASE WHEN late THEN 1.0 ELSE 0.0 END), 3)   AS share_late
FROM ML.PREDICT(MODEL late_flights, TABLE features)
WHERE predicted_late_prob > 0.5
GROUP BY carrier, airline, month
ORDER BY airline, month;
