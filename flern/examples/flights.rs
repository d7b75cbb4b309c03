//! The main job from Rust: tables from Parquet, features by joins and a window, a network trained on them, and predictions.
//!
//!     cargo run --release --example flights

use arrow::array::AsArray;
use arrow::datatypes::Float64Type;
use arrow::record_batch::RecordBatch;
use arrow::util::pretty::print_batches;
use flern::Session;

/// What is known before a flight leaves, and whether it arrives more than 15 minutes late.
const FEATURES: &str = "
    CREATE TABLE features AS
    WITH history AS (
      SELECT *, LAG(arr_delay) OVER (PARTITION BY tailnum
                                     ORDER BY year, month, day, sched_dep_time, flight, origin) AS prev_delay
      FROM flights
    )
    SELECT f.carrier, l.name AS airline, f.origin, f.month, f.hour + f.minute / 60.0 AS dep_hour, f.distance,
           w.temp, w.wind_speed, w.visib, f.year - p.year AS plane_age, f.prev_delay, a.lat AS dest_lat, a.alt AS dest_alt,
           f.arr_delay > 15 AS late,
           (f.flight * 31 + f.day * 7 + f.month * 13 + f.hour + f.year) % 5 = 0 AS is_test
    FROM history f
    LEFT JOIN weather w  ON w.origin = f.origin AND w.time_hour = f.time_hour
    LEFT JOIN planes p   ON p.tailnum = f.tailnum
    LEFT JOIN airports a ON a.faa = f.dest
    JOIN airlines l      ON l.carrier = f.carrier
    WHERE f.arr_delay IS NOT NULL";

const MODEL: &str = "
    CREATE MODEL late_flights
    TRANSFORM (
      sin(6.283185307179586 * dep_hour / 24.0) AS dep_sin,
      cos(6.283185307179586 * dep_hour / 24.0) AS dep_cos,
      ML.STANDARD_SCALER(distance) OVER() AS distance,
      ML.STANDARD_SCALER(ML.IMPUTER(temp, 'mean') OVER()) OVER() AS temp,
      ML.STANDARD_SCALER(ML.IMPUTER(wind_speed, 'mean') OVER()) OVER() AS wind_speed,
      ML.STANDARD_SCALER(ML.IMPUTER(visib, 'mean') OVER()) OVER() AS visib,
      ML.STANDARD_SCALER(ML.IMPUTER(plane_age, 'median') OVER()) OVER() AS plane_age,
      ML.STANDARD_SCALER(ML.IMPUTER(prev_delay, 'median') OVER()) OVER() AS prev_delay,
      ML.STANDARD_SCALER(ML.IMPUTER(dest_lat, 'mean') OVER()) OVER() AS dest_lat,
      ML.STANDARD_SCALER(ML.IMPUTER(dest_alt, 'mean') OVER()) OVER() AS dest_alt,
      ML.ONE_HOT_ENCODER(carrier) OVER() AS carrier,
      ML.ONE_HOT_ENCODER(origin) OVER() AS origin,
      late, is_test
    )
    OPTIONS (model_type = 'dnn_classifier', input_label_cols = ['late'], hidden_units = [64, 64], activation_fn = 'relu',
             optimizer = 'adam', learn_rate = 0.001, batch_size = 1024, max_iterations = 3, early_stop = FALSE,
             data_split_method = 'custom', data_split_col = 'is_test', seed = 7)
    AS SELECT * FROM features";

/// Where most flights are predicted to be late, and how many were.
const WORST: &str = "
    SELECT airline, COUNT(*) AS flights, ROUND(AVG(predicted_late_prob), 3) AS mean_prob,
           ROUND(AVG(CASE WHEN late THEN 1.0 ELSE 0.0 END), 3) AS share_late
    FROM ML.PREDICT(MODEL late_flights, TABLE features)
    WHERE predicted_late_prob > 0.5
    GROUP BY carrier, airline
    ORDER BY flights DESC
    LIMIT 5";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The flights are embedded in the library; a table is registered from a file.
    let folder = tempfile::tempdir()?;
    let files = flern::data::write_nycflights13(folder.path())?;
    let session = Session::new();
    for file in flern::data::NYCFLIGHTS13 {
        session.engine().register_parquet(file.table, files.join(format!("{}.parquet", file.table)))?;
    }

    session.sql(FEATURES)?;
    session.sql(MODEL)?;
    let scores = session.query("SELECT accuracy, roc_auc FROM ML.EVALUATE(MODEL late_flights)")?;
    let score = |rows: &RecordBatch, i: usize| rows.column(i).as_primitive::<Float64Type>().value(0);
    println!("on the held-out flights: accuracy {:.4}, AUC {:.4}", score(&scores[0], 0), score(&scores[0], 1));
    print_batches(&session.query(WORST)?)?;

    // A model is a function of record batches, too.
    let model = session.model("late_flights")?;
    let some = session.query("SELECT * FROM features LIMIT 3")?;
    print_batches(&model.predict(&some[0])?)?;
    Ok(())
}
